import type { Program, TensorLike } from '../program.ts'
import { type HostTensor, type Tensor, tensor } from '../tensor.ts'
import { expectTensor, expectThat } from './checks.ts'

/**
 * Rotary position embedding, half-rotation form (spec 3.4): columns j and j + head_dim/2 of each head are turned by
 * the angle of position and j. Positions are absolute, and checked when the program runs.
 * @param x f32 [num_tokens, num_heads*head_dim]
 * @param positions i32 [num_tokens]
 * @param table f32 [max_positions, head_dim], from `ropeTable()`
 * @returns f32 [num_tokens, num_heads*head_dim]
 */
export function rope(
  p: Program,
  x: TensorLike,
  positions: TensorLike,
  table: TensorLike,
  { numHeads }: { numHeads: number },
): Tensor {
  const [maxPositions = 0, headDim = 0] = expectTensor('rope', 'table', table, 'f32', [
    'max_positions',
    'head_dim',
  ])
  expectEven(headDim)
  const [numTokens = 0] = expectTensor('rope', 'positions', positions, 'i32', ['num_tokens'])
  expectTensor('rope', 'x', x, 'f32', [numTokens, numHeads * headDim])
  const out = p.alloc('f32', [numTokens, numHeads * headDim])
  p.record(
    'rope',
    { x: p.use(x), positions: p.use(positions), table: p.use(table), out },
    { numTokens, numHeads, headDim, maxPositions },
  )
  return out
}

/**
 * Row p is the head_dim/2 cosines, then the head_dim/2 sines of `p / theta^(2j/head_dim)`. Every step is rounded to
 * f32, as the reference does: the rounding of the angle is what a model was trained with.
 * @param firstPosition p of the first row, for a table that is made in parts
 * @returns f32 [numPositions, headDim]
 */
export function ropeTable(
  numPositions: number,
  headDim: number,
  theta: number,
  firstPosition = 0,
): HostTensor {
  expectEven(headDim)
  const half = headDim / 2
  const data = new Float32Array(numPositions * headDim)
  for (let j = 0; j < half; j++) {
    const fraction = Math.fround((2 * j) / headDim)
    const frequency = Math.fround(1 / Math.fround(Math.fround(theta) ** fraction))
    for (let row = 0, at = j; row < numPositions; row++, at += headDim) {
      const angle = Math.fround((firstPosition + row) * frequency)
      data[at] = Math.cos(angle)
      data[at + half] = Math.sin(angle)
    }
  }
  return tensor(data, [numPositions, headDim])
}

function expectEven(headDim: number): void {
  expectThat(
    headDim % 2 === 0,
    'rope',
    `head_dim is ${headDim}, expected an even number: columns turn in pairs`,
  )
}
