// A model for llama.cpp of the same shapes and the same useful work as an OpenMoE, with random weights. llama.cpp has no
// OpenMoE architecture; `ernie4_5-moe` has its parts: leading dense layers, top-k softmax experts, a shared expert in the
// place of the extra FFN. Its FFN has three matrices of F' rows where OpenMoE's has four of F, so F' = 4 F / 3, up to
// the next multiple of 256.
import type { BenchShape } from '../shapes.ts'
import { GGML_BLOCKS, ggmlBytes, type GgmlType, type GgufTensor, type GgufValue, writeGguf } from './gguf.ts'

export type LlamaWeights = Exclude<GgmlType, 'F32'>

export const ffnRows = ({ intermediateSize }: BenchShape): number =>
  Math.ceil((4 * intermediateSize) / 3 / 256) * 256

interface LlamaShape extends BenchShape {
  sharedExpert: boolean
}

export function writeLlamaModel(file: string, shape: BenchShape, weights: LlamaWeights): void {
  write(file, { ...shape, sharedExpert: true }, weights)
}

/** One layer that is nearly all MoE: a single head of 64, and a vocabulary that costs nothing. */
export function writeLlamaLayer(file: string, shape: BenchShape, weights: LlamaWeights): void {
  const little = { layers: 1, moeLayerInterval: 1, numHeads: 1, numKvHeads: 1, headDim: 64, vocabSize: 512 }
  write(file, { ...shape, ...little, sharedExpert: false }, weights)
}

function write(file: string, shape: LlamaShape, weights: LlamaWeights): void {
  writeGguf(file, metadata(shape), [...tensors(shape, weights)])
}

/** MoE layers come last there, and are spread out here: a token passes through the same number of each. */
const denseLayers = ({ layers, moeLayerInterval }: BenchShape): number =>
  layers - Math.floor(layers / moeLayerInterval)

function metadata(shape: LlamaShape): Record<string, GgufValue> {
  const arch = 'ernie4_5-moe'
  const sizes = {
    context_length: 2048,
    embedding_length: shape.hiddenSize,
    block_count: shape.layers,
    feed_forward_length: ffnRows(shape),
    'attention.head_count': shape.numHeads,
    'attention.head_count_kv': shape.numKvHeads,
    'attention.key_length': shape.headDim,
    'attention.value_length': shape.headDim,
    'rope.dimension_count': shape.headDim,
    vocab_size: shape.vocabSize,
    expert_count: shape.numExperts,
    expert_used_count: 2,
    expert_feed_forward_length: ffnRows(shape),
    ...(shape.sharedExpert && { expert_shared_feed_forward_length: ffnRows(shape) }),
    interleave_moe_layer_step: 1,
    leading_dense_block_count: denseLayers(shape),
  }
  return {
    'general.architecture': { string: arch },
    'general.name': { string: `openmoe-like-${shape.name}` },
    ...Object.fromEntries(Object.entries(sizes).map(([key, u32]) => [`${arch}.${key}`, { u32 }])),
    [`${arch}.attention.layer_norm_rms_epsilon`]: { f32: 1e-6 },
    [`${arch}.rope.freq_base`]: { f32: 10000 },
    ...vocabulary(shape.vocabSize),
  }
}

function vocabulary(size: number): Record<string, GgufValue> {
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`)
  const special = ['<unk>', '<s>', '</s>', ...bytes]
  const words = Array.from({ length: size - special.length }, (_, i) => `\u2581t${i}`)
  const [unknown, control, byte, normal] = [2, 3, 6, 1]
  const types = [unknown, control, control, ...bytes.map(() => byte), ...words.map(() => normal)]
  return {
    'tokenizer.ggml.model': { string: 'llama' },
    'tokenizer.ggml.tokens': { strings: [...special, ...words] },
    'tokenizer.ggml.scores': { f32s: Float32Array.from({ length: size }, (_, i) => -i) },
    'tokenizer.ggml.token_type': { i32s: Int32Array.from(types) },
    'tokenizer.ggml.bos_token_id': { u32: 1 },
    'tokenizer.ggml.eos_token_id': { u32: 2 },
    'tokenizer.ggml.unknown_token_id': { u32: 0 },
  }
}

function* tensors(shape: LlamaShape, weights: LlamaWeights): Generator<GgufTensor> {
  const { hiddenSize: d, numExperts, vocabSize } = shape
  const f = ffnRows(shape)
  const pool = randomBlocks(weights)
  const matrix = (name: string, ...sides: number[]): GgufTensor => ({
    name: `${name}.weight`,
    type: weights,
    shape: sides,
    data: () => repeated(pool, ggmlBytes(weights, sides)),
  })
  const plain = (name: string, sides: number[], value: () => number): GgufTensor => ({
    name: `${name}.weight`,
    type: 'F32',
    shape: sides,
    data: () => [new Uint8Array(Float32Array.from({ length: sides.reduce((a, b) => a * b) }, value).buffer)],
  })
  const norm = (name: string): GgufTensor => plain(name, [d], () => 1)
  const ffn = (block: string, suffix: string, ...count: number[]): GgufTensor[] => [
    matrix(`${block}.ffn_gate${suffix}`, ...count, f, d),
    matrix(`${block}.ffn_up${suffix}`, ...count, f, d),
    matrix(`${block}.ffn_down${suffix}`, ...count, d, f),
  ]
  yield* [matrix('token_embd', vocabSize, d), norm('output_norm'), matrix('output', vocabSize, d)]
  for (let i = 0; i < shape.layers; i++) {
    const block = `blk.${i}`
    yield* [norm(`${block}.attn_norm`), norm(`${block}.ffn_norm`)]
    yield matrix(`${block}.attn_q`, shape.numHeads * shape.headDim, d)
    yield matrix(`${block}.attn_k`, shape.numKvHeads * shape.headDim, d)
    yield matrix(`${block}.attn_v`, shape.numKvHeads * shape.headDim, d)
    yield matrix(`${block}.attn_output`, d, shape.numHeads * shape.headDim)
    if (i < denseLayers(shape)) {
      yield* ffn(block, '')
      continue
    }
    yield plain(`${block}.ffn_gate_inp`, [numExperts, d], () => (Math.random() - 0.5) * 0.1)
    yield* ffn(block, '_exps', numExperts)
    if (shape.sharedExpert) yield* ffn(block, '_shexp')
  }
}

const POOL_BLOCKS = 1 << 20

/** Blocks of random weights with a standard deviation of about 0.02. */
function randomBlocks(type: LlamaWeights): Uint8Array {
  const { bytes } = GGML_BLOCKS[type]
  const pool = new Uint8Array(POOL_BLOCKS * bytes)
  if (type === 'BF16') {
    const values = Float32Array.from({ length: POOL_BLOCKS }, () => (Math.random() - 0.5) * 0.07)
    const words = new Uint32Array(values.buffer)
    new Uint16Array(pool.buffer).set(Uint16Array.from(words, (word) => word >>> 16))
    return pool
  }
  for (let i = 0; i < pool.length; i++) pool[i] = Math.random() * 256
  // The scale comes first, as f16: 2^-12 for 8-bit, 2^-8 for 4-bit numbers.
  const scale = type === 'Q8_0' ? 0x0c00 : 0x1c00
  for (let at = 0; at < pool.length; at += bytes) {
    pool[at] = scale & 0xff
    pool[at + 1] = scale >> 8
  }
  return pool
}

function* repeated(pool: Uint8Array, bytes: number): Generator<Uint8Array> {
  for (let left = bytes; left > 0; left -= pool.length) yield pool.subarray(0, left)
}
