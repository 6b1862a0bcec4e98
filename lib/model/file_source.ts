// A matrix in a file, as the native loader takes it.
import type { MatrixSource } from '../checkpoint/layout.ts'
import { isPanelDtype, PANEL, panelBytes, panelShape } from '../checkpoint/panels.ts'
import type { NativeMatrixSource } from '../native.ts'
import { bytesPerElement, dtypeIndex } from '../tensor.ts'

const DTYPES = { F32: 'f32', BF16: 'bf16', F16: 'f16', INT8: 'int8', INT4: 'int4' } as const

/** Bytes a matrix takes in its file. */
export function sourceBytes({ dtype, rows, cols }: MatrixSource): number {
  if (!isPanelDtype(dtype)) return rows * cols * bytesPerElement(DTYPES[dtype])
  const [panels, bytes] = panelShape(dtype, rows, cols)
  return panels * bytes
}

/** Rows [row, row + rows) of a matrix; of panels, `row` is the first of one. */
export function sourceRows(source: MatrixSource, row: number, rows: number): NativeMatrixSource {
  const { file, dtype, offset, cols, rowStride, colStride } = source
  const skipped = isPanelDtype(dtype)
    ? (row / PANEL) * panelBytes(dtype, cols)
    : row * rowStride * bytesPerElement(DTYPES[dtype])
  return {
    file,
    offset: offset + skipped,
    dtype: dtypeIndex(DTYPES[dtype]),
    rows,
    cols,
    rowStride,
    colStride,
  }
}
