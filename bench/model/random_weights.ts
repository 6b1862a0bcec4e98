import type { Device } from '../../lib/device.ts'
import type { OpenMoeConfig } from '../../lib/model/config.ts'
import { buildWeights, type ModelWeights, type WeightSource } from '../../lib/model/weights.ts'
import {
  type DType,
  isQuantised,
  type Matrix,
  numElements,
  Tensor,
  type TypedArray,
} from '../../lib/tensor.ts'
import type { WeightDtype } from '../context.ts'

// Random numbers are made once and copied from ever other places: a gigabyte of them in JavaScript takes longer than
// the benchmark. 8 MiB or 16 MiB, so that weights next to each other differ.
const POOL = 1 << 22
// Whole panels of weights have no padding, so any numbers in any order are a valid packed matrix.
const PANEL = 32

/** Weights uniform with variance 1 / in_features: activations keep their size from layer to layer. */
export async function randomWeights(
  device: Device,
  config: OpenMoeConfig,
  dtype: WeightDtype,
): Promise<{ weights: ModelWeights; allocated: (Tensor | Matrix)[] }> {
  const allocated: (Tensor | Matrix)[] = []
  const next = uniform(1)
  const pools = new Map<string, TypedArray>()
  const pool = (kind: DType, variance: number): TypedArray => {
    const key = `${kind} ${variance}`
    let found = pools.get(key)
    if (!found) pools.set(key, (found = randomPool(kind, variance, next)))
    return found
  }
  const fill = async (to: Tensor | Matrix, count: number, from: TypedArray): Promise<void> => {
    const dtype = to.dtype === 'f32' ? 'f32' : 'bf16'
    const flat = new Tensor(device, dtype, [count], { buffer: to.buffer!, offset: 0 })
    for (let at = 0; at < count;) {
      const start = Math.floor((0.5 + 0.5 * next()) * 0.5 * POOL)
      const part = from.subarray(start, Math.min(POOL, start + count - at))
      await device.write(flat, part, at)
      at += part.length
    }
  }
  const source: WeightSource = {
    async matrix(_parts, shape) {
      const { count, outFeatures, inFeatures } = shape
      if (outFeatures % PANEL || inFeatures % 2) throw new Error('random weights: expected whole panels')
      const matrix = device.emptyMatrix(dtype, shape)
      allocated.push(matrix)
      if (isQuantised(dtype)) await fillGroups(device, matrix, dtype, next)
      else await fill(matrix, count * outFeatures * inFeatures, pool(dtype, 1 / inFeatures))
      return matrix
    },
    async rows(key, kind, shape) {
      const rows = device.empty(kind, shape)
      allocated.push(rows)
      const count = numElements(shape)
      if (key.endsWith('norm')) await device.write(rows, new Float32Array(count).fill(1))
      else await fill(rows, count, pool(kind, key.endsWith('router') ? 1 / config.hiddenSize : 1))
      return rows
    },
  }
  return { weights: await buildWeights(device, config, dtype, source, allocated), allocated }
}

/** Quantised groups: scales that give the weights their variance, and random bits. */
async function fillGroups(
  device: Device,
  matrix: Matrix,
  dtype: 'int8' | 'int4',
  next: () => number,
): Promise<void> {
  const [levels, weightBytes, scaleShift] = dtype === 'int8' ? [256, 1024, 0] : [16, 512, 1]
  const groupBytes = 64 + weightBytes
  const pool = Uint8Array.from({ length: 4096 * groupBytes }, () => 128 + 127 * next())
  const scale = Math.sqrt(12 / matrix.inFeatures) / levels
  const bits = (new Uint32Array(Float32Array.of(scale).buffer)[0]! >>> 16) << scaleShift
  const zeroPoint = dtype === 'int4' ? 8 : 0
  for (let group = 0; group < pool.length; group += groupBytes) {
    new Uint16Array(pool.buffer, group, 32).fill((zeroPoint ? bits & 0xfff0 : bits) | zeroPoint)
  }
  const flat = new Tensor(device, 'u8', [matrix.bytes], { buffer: matrix.buffer, offset: 0 })
  for (let at = 0; at < matrix.bytes;) {
    const part = pool.subarray(0, Math.min(pool.length, matrix.bytes - at))
    await device.write(flat, part, at)
    at += part.length
  }
}

function randomPool(kind: DType, variance: number, next: () => number): TypedArray {
  const scale = Math.sqrt(3 * variance) // of numbers uniform in [-1, 1], whose variance is 1/3
  const values = Float32Array.from({ length: POOL }, () => next() * scale)
  if (kind === 'f32') return values
  const bits = new Uint32Array(values.buffer)
  return Uint16Array.from(bits, (word) => word >>> 16)
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
