// The tests of the kernels must be able to fail: every bug of mutants.ts, planted alone, is noticed by the emulator or
// by the comparison with f64.
import { expect, it } from 'vitest'

import { runMutant, runProgram } from './gpu_program.ts'
import { MUTANTS } from './mutants.ts'

// Mutants compile and run side by side, as many as there are cores; the time of one includes its turn in the queue.
const QUEUE = 300_000

it('the parts that mutants must fail pass without them', { timeout: QUEUE }, async () => {
  for (const test of new Set(MUTANTS.map(({ program }) => program.test))) {
    const mutants = MUTANTS.filter(({ program }) => program.test === test)
    const parts = new Set(mutants.map(({ part }) => part))
    expect(await runProgram(mutants[0]!.program, [...parts])).toMatchObject({ ok: true })
  }
})

it.concurrent.each(MUTANTS)('notices $name', { timeout: QUEUE }, async (mutant) => {
  const { ok, output } = await runMutant(mutant)
  expect(ok, output).toBe(false)
  expect(output).toMatch(/FAIL|WRONG|timed out|killed by/)
})
