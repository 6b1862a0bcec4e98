import type { Program, TensorLike } from '../program.ts'
import type { Matrix, Tensor } from '../tensor.ts'
import { expectMatrix, expectTensor } from './checks.ts'

/**
 * The id with the largest product of each row, the lowest on ties: what `linear` and then `sample` at temperature 0 take,
 * without writing the logits (native/ops/linear_argmax.h).
 * @param x f32 [num_rows, in_features]
 * @param weight packed [vocab_size, in_features], any dtype of a matrix
 * @param options.vocabLimit ids from here on are never taken (default: none)
 * @param options.token i32 [num_rows]: a tensor to write the ids into, instead of a new one
 * @returns i32 [num_rows]; -1 where products held NaN, +infinity or nothing finite
 */
export function linearArgmax(
  p: Program,
  x: TensorLike,
  weight: Matrix,
  options: { vocabLimit?: number; token?: Tensor } = {},
): Tensor {
  const op = 'linear_argmax'
  const [numRows = 0, inFeatures = 0] = expectTensor(op, 'x', x, 'f32', ['num_rows', 'in_features'])
  expectMatrix(op, 'weight', weight, inFeatures)
  const { outFeatures: vocabSize } = weight
  const { vocabLimit = vocabSize } = options
  const token = options.token ?? p.alloc('i32', [numRows])
  expectTensor(op, 'token', token, 'i32', [numRows])
  p.record(op, { x: p.use(x), weight, token }, { numRows, vocabSize, inFeatures, vocabLimit })
  return token
}
