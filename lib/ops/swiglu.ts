import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor, expectThat } from './checks.ts'

/**
 * The gated activation (spec 3.5): `out = a * silu(b) * up`, with the activation on the second half of the gate.
 * @param gateUp f32 [num_rows, 3*intermediate_size]: a | b | up
 * @returns f32 [num_rows, intermediate_size]
 */
export function swiglu(p: Program, gateUp: TensorLike): Tensor {
  const [numRows = 0, columns = 0] = expectTensor('swiglu', 'gate_up', gateUp, 'f32', [
    'num_rows',
    '3*intermediate_size',
  ])
  expectThat(columns % 3 === 0, 'swiglu', `gate_up has ${columns} columns, expected 3*intermediate_size`)
  const intermediateSize = columns / 3
  const out = p.alloc('f32', [numRows, intermediateSize])
  p.record('swiglu', { gateUp: p.use(gateUp), out }, { numRows, intermediateSize })
  return out
}
