import { createHash } from 'node:crypto'
import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { canonicalParameters, type MatrixSource, type ParameterSource } from '../../lib/checkpoint/layout.ts'
import type { OpenMoeConfig } from '../../lib/model/config.ts'

const folder = join(import.meta.dirname, '../golden')

export function goldenCase(name: string): string {
  return join(folder, name)
}

export function goldenJson<T>(path: string): T {
  return JSON.parse(readFileSync(join(folder, path), 'utf8')) as T
}

/** The elements of a resolved view as float32, one by one: slow and obvious. */
export function readMatrix(source: MatrixSource): Float32Array {
  const size = source.dtype === 'F32' ? 4 : 2
  const span = (source.rows - 1) * source.rowStride + (source.cols - 1) * source.colStride + 1
  const bytes = Buffer.alloc(span * size)
  const descriptor = openSync(source.file, 'r')
  if (readSync(descriptor, bytes, 0, bytes.length, source.offset) !== bytes.length)
    throw new Error('view beyond the file')
  closeSync(descriptor)
  const values = new Float32Array(source.rows * source.cols)
  const word = new DataView(new ArrayBuffer(4))
  for (let row = 0; row < source.rows; row++) {
    for (let col = 0; col < source.cols; col++) {
      const at = (row * source.rowStride + col * source.colStride) * size
      if (source.dtype === 'F16') throw new Error('no fixture has F16')
      word.setUint32(0, source.dtype === 'F32' ? bytes.readUInt32LE(at) : bytes.readUInt16LE(at) << 16)
      values[row * source.cols + col] = word.getFloat32(0)
    }
  }
  return values
}

/** sha256 over every parameter in canonical order, as float32 in [.., out, in] order. */
export function digestWeights(parameters: Map<string, ParameterSource>, config: OpenMoeConfig): string {
  const hash = createHash('sha256')
  for (const { key } of canonicalParameters(config)) {
    for (const matrix of parameters.get(key)!.matrices) hash.update(new Uint8Array(readMatrix(matrix).buffer))
  }
  return hash.digest('hex')
}
