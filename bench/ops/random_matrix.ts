import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Device } from '#lib/device'
import type { WeightDtype } from '#lib/model/weights'
import { dtypeIndex, type Matrix, type MatrixShape } from '#lib/tensor'

const BLOCK = 2 ** 22 // numbers made at random; a matrix repeats them, which no kernel notices
const PANEL_ROWS = 32

/**
 * Packed weights of any size and dtype, through the loader and at its speed: written everywhere (untouched pages would
 * all be one page of zeros), uniform with variance 1 / in_features, so that activations keep their size.
 */
export async function randomMatrix(device: Device, dtype: WeightDtype, shape: MatrixShape): Promise<Matrix> {
  const { count, outFeatures, inFeatures } = shape
  const matrix = device.emptyMatrix(dtype, shape)
  const stored = dtype === 'f32' ? 'f32' : 'bf16'
  const blockRows = Math.min(outFeatures, PANEL_ROWS * Math.ceil(BLOCK / inFeatures / PANEL_ROWS))
  const folder = mkdtempSync(join(tmpdir(), 'openmoe-bench-'))
  try {
    const file = join(folder, 'weights')
    writeFileSync(file, uniformWeights(stored, blockRows * inFeatures, inFeatures))
    const strides = { cols: inFeatures, rowStride: inFeatures, colStride: 1 }
    for (let index = 0; index < count; index++) {
      for (let row = 0; row < outFeatures; row += blockRows) {
        const rows = Math.min(blockRows, outFeatures - row)
        const source = { file, offset: 0, dtype: dtypeIndex(stored), rows, ...strides }
        await device.loadMatrix(source, matrix, index, row)
      }
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
  return matrix
}

/** Numbers as a file holds them, uniform with variance 1 / in_features. */
export function uniformWeights(
  dtype: 'f32' | 'bf16',
  count: number,
  inFeatures: number,
): Float32Array | Uint16Array {
  const next = uniform(1)
  const scale = Math.sqrt(3 / inFeatures) // the variance of numbers uniform in [-1, 1) is 1/3
  const values = Float32Array.from({ length: count }, () => next() * scale)
  return dtype === 'f32' ? values : Uint16Array.from(new Uint32Array(values.buffer), (word) => word >>> 16)
}

/** xorshift32, uniform in [-1, 1). */
export function uniform(seed: number): () => number {
  let state = seed | 0
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state / 2 ** 31
  }
}
