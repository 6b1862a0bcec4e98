import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor } from './checks.ts'

/**
 * Rows of a table (spec 3): `out[t] = table[ids[t]]`, no scaling. Ids are checked when the program runs.
 * @param table f32 or bf16 [num_rows, hidden_size]
 * @param ids i32 [num_tokens]
 * @param previous i32 [num_previous]: an id below 0 stands for `previous[-1 - id]`
 * @returns f32 [num_tokens, hidden_size]
 */
export function embedding(p: Program, table: TensorLike, ids: TensorLike, previous?: TensorLike): Tensor {
  const [numRows = 0, hiddenSize = 0] = expectTensor(
    'embedding',
    'table',
    table,
    ['f32', 'bf16'],
    ['num_rows', 'hidden_size'],
  )
  const [numTokens = 0] = expectTensor('embedding', 'ids', ids, 'i32', ['num_tokens'])
  const numPrevious = previous
    ? expectTensor('embedding', 'previous', previous, 'i32', ['num_previous'])[0]!
    : 0
  const out = p.alloc('f32', [numTokens, hiddenSize])
  p.record(
    'embedding',
    { table: p.use(table), ids: p.use(ids), previous: previous && p.use(previous), out },
    { numRows, numTokens, numPrevious, hiddenSize },
  )
  return out
}
