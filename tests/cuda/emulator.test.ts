// The emulator itself and the kernels that need no device around them: the native tests, run as part of npm test.
import { expect, it } from 'vitest'

import { runProgram } from './gpu_program.ts'
import { MOE_MUTANTS } from './moe_mutants.ts'

const MOE = MOE_MUTANTS[0]!.program.kernels
const GEMMS = ['native/ops/grouped_gemm.cu', 'native/ops/grouped_gemm_swiglu.cu']

it.each([
  { what: 'schedules, addresses and poisons as it says', test: 'gpu_emulator_test', kernels: [] },
  { what: 'refuses every broken rule, on every schedule', test: 'gpu_rules_test', kernels: [] },
  { what: 'runs the grouped GEMMs right, on both kernel paths', test: 'gpu_gemm_test', kernels: GEMMS },
  { what: 'routes, permutes and packs as slow and obvious loops do', test: 'gpu_moe_test', kernels: MOE },
])('the emulator $what', { timeout: 180_000 }, async ({ test, kernels }) => {
  expect(await runProgram({ test, kernels })).toEqual({ ok: true, output: 'ok\n' })
})
