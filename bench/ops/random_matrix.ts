import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Device } from '../../lib/device.ts'
import { dtypeIndex, type Matrix, type MatrixShape } from '../../lib/tensor.ts'
import { randomHost } from './random.ts'

const BLOCK = 2 ** 22 // numbers made at random; a matrix repeats them, which no kernel notices

/** Packed weights of any size: written everywhere (untouched pages would all be one page of zeros), at disk speed. */
export async function randomMatrix(
  device: Device,
  dtype: 'f32' | 'bf16',
  shape: MatrixShape,
): Promise<Matrix> {
  const { count, outFeatures, inFeatures } = shape
  const matrix = device.emptyMatrix(dtype, shape)
  const blockRows = Math.min(outFeatures, 32 * Math.ceil(BLOCK / inFeatures / 32))
  const folder = mkdtempSync(join(tmpdir(), 'openmoe-bench-'))
  try {
    const file = join(folder, 'weights')
    writeFileSync(file, randomHost(dtype, [blockRows, inFeatures]).data)
    const strides = { cols: inFeatures, rowStride: inFeatures, colStride: 1 }
    for (let index = 0; index < count; index++) {
      for (let row = 0; row < outFeatures; row += blockRows) {
        const rows = Math.min(blockRows, outFeatures - row)
        await device.loadMatrix(
          { file, offset: 0, dtype: dtypeIndex(dtype), rows, ...strides },
          matrix,
          index,
          row,
        )
      }
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
  return matrix
}
