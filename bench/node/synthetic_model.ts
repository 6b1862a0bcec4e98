// A whole Model, as loadModel() makes it, but with random weights; and its checkpoint on disk.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { canonicalParameters } from '#lib/checkpoint/canonical_parameters'
import { type TensorToWrite, writeSafetensors } from '#lib/checkpoint/safetensors'
import { type Device, type DeviceOptions, openDevice } from '#lib/device'
import type { OpenMoeConfig } from '#lib/model/config'
import { convertCheckpoint, originalName } from '#lib/model/convert'
import { Model } from '#lib/model/model'
import { floatDtype, type ModelWeights } from '#lib/model/weights'
import { numElements } from '#lib/tensor'
import { syntheticConfig } from '../model/config.ts'
import { randomWeights } from '../model/random_weights.ts'
import { uniform, uniformWeights } from '../ops/random_matrix.ts'
import type { TypedShape } from '../shapes.ts'

export interface SyntheticModel {
  model: Model
  device: Device
  config: OpenMoeConfig
  weights: ModelWeights
  prompt: Int32Array
}

/** On a device of its own, because a model closes its device. Disposed when `body` ends. */
export async function withModel<T>(
  shape: TypedShape,
  { device: name, ...options }: DeviceOptions & { device: string },
  body: (synthetic: SyntheticModel) => Promise<T>,
): Promise<T> {
  const config = syntheticConfig(shape)
  const device = await openDevice(name, options)
  try {
    const weights = await randomWeights(device, config, shape.dtype)
    const parts = { device, config, weights, dtype: shape.dtype, tokenizer: undefined, warnings: [] }
    const model = new Model(parts, { maxSequences: 2 })
    const next = uniform(3)
    const prompt = Int32Array.from({ length: shape.context }, () =>
      Math.floor((0.5 + 0.5 * next()) * shape.vocabSize),
    )
    try {
      return await body({ model, device, config, weights, prompt })
    } finally {
      await model.dispose()
    }
  } finally {
    await device.dispose()
  }
}

/** A folder as `openmoe convert` writes it, with random weights of the shape's dtype. Deleted when `body` ends. */
export async function withCheckpoint<T>(
  shape: TypedShape,
  body: (folder: string, file: string) => Promise<T>,
): Promise<T> {
  const parent = mkdtempSync(join(tmpdir(), 'openmoe-bench-'))
  try {
    let folder = parent
    await writeCheckpoint(folder, syntheticConfig(shape), floatDtype(shape.dtype))
    if (shape.dtype !== floatDtype(shape.dtype)) {
      folder = join(parent, 'converted')
      await convertCheckpoint(parent, folder, { dtype: shape.dtype })
    }
    return await body(folder, join(folder, 'model.safetensors'))
  } finally {
    rmSync(parent, { recursive: true })
  }
}

const CHUNK = 1 << 22

async function writeCheckpoint(folder: string, config: OpenMoeConfig, dtype: 'f32' | 'bf16'): Promise<void> {
  writeFileSync(join(folder, 'config.json'), JSON.stringify(configJson(config)))
  const pool = uniformWeights(dtype, CHUNK, config.hiddenSize)
  const ones = uniformOnes(config.hiddenSize)
  const tensors = canonicalParameters(config).map(({ key, role, shape }): TensorToWrite => {
    if (role === 'norm') return { name: originalName(key), dtype: 'F32', shape, data: ones }
    const [experts, rows, cols] = shape
    return {
      name: originalName(key),
      dtype: dtype === 'f32' ? 'F32' : 'BF16',
      // Stacked experts are stored input dimension first (spec 6.1).
      shape: role === 'experts' ? [experts!, cols!, rows!] : shape,
      data: () => chunksOf(pool, numElements(shape)),
    }
  })
  await writeSafetensors(join(folder, 'model.safetensors'), tensors)
}

function* chunksOf(pool: Float32Array | Uint16Array, count: number): Generator<Uint8Array> {
  for (let left = count; left > 0; left -= pool.length) {
    const part = pool.subarray(0, Math.min(left, pool.length))
    yield new Uint8Array(part.buffer, part.byteOffset, part.byteLength)
  }
}

const uniformOnes = (length: number): Uint8Array => new Uint8Array(new Float32Array(length).fill(1).buffer)

function configJson(config: OpenMoeConfig): Record<string, unknown> {
  return {
    model_type: 'openmoe',
    hidden_act: 'swiglu',
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    head_dim: config.headDim,
    max_position_embeddings: config.maxPositionEmbeddings,
    num_experts: config.numExperts,
    moe_layer_interval: config.moeLayerInterval,
    router_topk: config.topK,
    pad_token_id: config.padTokenId,
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenId,
  }
}
