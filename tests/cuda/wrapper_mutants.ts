// Bugs around wrappers that no kernel uses yet: in a kernel of the conformance test, where they stand for what a user of
// the wrapper gets wrong, and in the emulator, whose twin of the hardware must not be wrong unnoticed.
import type { Mutant, Patch, Program } from './gpu_program.ts'

const OPERANDS = 'tests/native/conformance/mn_major.h'
const COPIES = 'tests/native/conformance/copies.h'
const EMULATED_WGMMA = 'native/gpu/emulator/wgmma.cpp'
const EMULATED_COPIES = 'native/gpu/emulator/copies.cpp'

const CONFORMANCE: Program = { test: 'gpu_conformance_test', kernels: [] }
const RULES: Program = { test: 'gpu_rules_test', kernels: [] }

/** `cases`: part of the names of those that must notice. */
function wrapper(name: string, file: string, edits: Patch['edits'], cases = 'MN-major'): Mutant {
  return { name, file, edits, part: cases, program: CONFORMANCE }
}
function rule(name: string, edits: Patch['edits']): Mutant {
  return { name, file: EMULATED_WGMMA, edits, part: 'all', program: RULES }
}

export const WRAPPER_MUTANTS: Mutant[] = [
  wrapper('strides of an MN-major operand exchanged', OPERANDS, [
    ['kGroupStride, kBlockStride);', 'kBlockStride, kGroupStride);'],
  ]),
  wrapper('an MN-major step of one group of k', OPERANDS, [
    ['step * 2 * kGroupStride', 'step * kGroupStride'],
  ]),
  wrapper('MN-major rows stored without the swizzle', OPERANDS, [['(chunk ^ row % 8)', 'chunk']]),
  wrapper('every operand read as K-major', EMULATED_WGMMA, [
    ['if (operand.major == Major::k) {', 'if (true) {'],
  ]),
  wrapper('blocks of an MN-major operand in one place', EMULATED_WGMMA, [
    ['chunk / 8 * d.block_stride + ', ''],
  ]),
  wrapper('groups of k in one place', EMULATED_WGMMA, [['k / 8 * d.group_stride + ', '']]),
  wrapper('a column of k and its neighbour exchanged', EMULATED_WGMMA, [
    ['(chunk * 8 + i) * kDepth + k]', '(chunk * 8 + (i ^ 1)) * kDepth + k]'],
  ]),
  wrapper('a copy that reads past its bytes', COPIES, [[', thread_id() % 17)', ')']], '0 to 16 bytes'),
  wrapper(
    'a copy that fills up with nothing',
    EMULATED_COPIES,
    [['std::memset(to, 0, 16);', '']],
    '0 to 16 bytes',
  ),
  rule('MN-major blocks that start anywhere', [['!k_major && d.block_stride % 1024 != 0', 'false']]),
  rule('an MN-major operand that starts inside a row', [['(k_major ? 128 : 16)', '128']]),
]
