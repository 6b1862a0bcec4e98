import type { Device } from '#lib/device'
import type { OpenMoeConfig } from '#lib/model/config'
import { buildWeights, type ModelWeights, type WeightDtype, type WeightSource } from '#lib/model/weights'
import { type Matrix, numElements, type Tensor } from '#lib/tensor'
import { randomMatrix, uniformWeights } from '../ops/random_matrix.ts'

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
    matrix: async (_parts, shape) => keep(await randomMatrix(device, dtype, shape)),
    async rows(key, kind, shape) {
      const rows = keep(device.empty(kind, shape))
      const count = numElements(shape)
      if (key.endsWith('norm')) {
        await device.write(rows, new Float32Array(count).fill(1))
        return rows
      }
      const inFeatures = key.endsWith('router') ? config.hiddenSize : 1
      const pool = uniformWeights(kind === 'f32' ? 'f32' : 'bf16', Math.min(count, POOL), inFeatures)
      for (let at = 0; at < count; at += pool.length) {
        await device.write(rows, pool.subarray(0, count - at), at)
      }
      return rows
    },
    finish: () => Promise.resolve(),
  }
  return buildWeights(device, config, dtype, source, allocated)
}
