import type { Device } from '#lib/device'
import type { OpenMoeConfig } from '#lib/model/config'
import { buildWeights, type ModelWeights, type WeightDtype, type WeightSource } from '#lib/model/weights'
import { type Matrix, numElements, type Tensor, tensor } from '#lib/tensor'
import { randomMatrix, uniform, uniformWeights } from '../ops/random_matrix.ts'

// Numbers made at random for a table; larger ones repeat them.
const POOL = 1 << 22

/** Weights uniform with variance 1 / in_features: activations keep their size from layer to layer. */
export async function randomWeights(
  device: Device,
  config: OpenMoeConfig,
  dtype: WeightDtype,
): Promise<ModelWeights> {
  const allocated: (Tensor | Matrix)[] = []
  const keep = <T extends Tensor | Matrix>(made: T): T => {
    allocated.push(made)
    return made
  }
  const source: WeightSource = {
    async matrix(_parts, count, outFeatures, inFeatures) {
      return keep(await randomMatrix(device, dtype, { count, outFeatures, inFeatures }))
    },
    async router() {
      return keep(await randomRouter(device, config))
    },
    async rows(key, kind, shape) {
      const rows = keep(device.empty(kind, shape))
      const count = numElements(shape)
      if (key.endsWith('norm')) {
        await device.write(rows, new Float32Array(count).fill(1))
        return rows
      }
      const pool = uniformWeights(kind === 'f32' ? 'f32' : 'bf16', Math.min(count, POOL), 1)
      for (let at = 0; at < count; at += pool.length) {
        await device.write(rows, pool.subarray(0, count - at), at)
      }
      return rows
    },
  }
  return buildWeights(device, config, dtype, source, allocated)
}

/** Router weights of the size that spreads tokens over all experts. */
export function randomRouter(
  device: Device,
  { numExperts, hiddenSize }: Pick<OpenMoeConfig, 'numExperts' | 'hiddenSize'>,
): Promise<Matrix> {
  const next = uniform(2)
  const scale = Math.sqrt(3 / hiddenSize)
  const data = Float32Array.from({ length: numExperts * hiddenSize }, () => next() * scale)
  return device.matrix(tensor(data, [numExperts, hiddenSize]), 'f32')
}
