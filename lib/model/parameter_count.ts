import type { OpenMoeConfig } from './config.ts'

export interface ParameterCount {
  total: number
  active: number // what one token touches: active blocks, embedding, head
  embedding: number
  head: number
  attention: number
  denseMlp: number // the always-on FFNs: dense layers and the extra FFN of MoE layers
  experts: number
  routers: number
  norms: number
  activeBlocks: number // attention, always-on FFNs, topK experts per MoE layer, routers
}

/** Counts what the code's structure holds, not what the paper's Table 11 says (spec section 2: they differ). */
export function countParameters(config: OpenMoeConfig): ParameterCount {
  const { vocabSize, hiddenSize, intermediateSize, numHiddenLayers: layers, numExperts, headDim } = config
  const moeLayers = Math.floor(layers / config.moeLayerInterval)
  // gate has 2 F outputs, up has F, down has F inputs
  const ffn = 4 * hiddenSize * intermediateSize
  const embedding = vocabSize * hiddenSize
  const head = embedding
  // q and o have H heads, k and v have Hkv
  const attention = 2 * layers * hiddenSize * headDim * (config.numAttentionHeads + config.numKeyValueHeads)
  const denseMlp = layers * ffn
  const experts = moeLayers * numExperts * ffn
  const routers = moeLayers * numExperts * hiddenSize
  const norms = (2 * layers + moeLayers + 1) * hiddenSize
  const activeBlocks = attention + denseMlp + moeLayers * config.topK * ffn + routers
  return {
    total: embedding + head + attention + denseMlp + experts + routers + norms,
    active: activeBlocks + embedding + head,
    embedding,
    head,
    attention,
    denseMlp,
    experts,
    routers,
    norms,
    activeBlocks,
  }
}

export interface DtypeMemory {
  f32: number
  bf16: number
  int8: number
  int4: number
  kvCachePerToken: { f32: number; bf16: number } // bytes per token of context, all layers
}

// One 16-bit scale for 128 and 32 weights: 8.125 and 4.5 bits per weight.
const GROUP_WEIGHTS = { int8: 128, int4: 32 } as const
const SCALE_BYTES = 2

/**
 * Bytes of the weights in each dtype. Quantized: every matrix that is multiplied by, the head included. The embedding
 * (rows are looked up), the norms and the routers (fp32 math, spec 3.6) stay bf16.
 */
export function memoryPerDtype(config: OpenMoeConfig): DtypeMemory {
  const count = countParameters(config)
  const quantized = count.attention + count.denseMlp + count.experts + count.head
  const rest = 2 * (count.total - quantized)
  const scales = (dtype: 'int8' | 'int4'): number => Math.ceil(quantized / GROUP_WEIGHTS[dtype]) * SCALE_BYTES
  const kvValues = 2 * config.numHiddenLayers * config.numKeyValueHeads * config.headDim
  return {
    f32: 4 * count.total,
    bf16: 2 * count.total,
    int8: quantized + scales('int8') + rest,
    int4: Math.ceil(quantized / 2) + scales('int4') + rest,
    kvCachePerToken: { f32: 4 * kvValues, bf16: 2 * kvValues },
  }
}
