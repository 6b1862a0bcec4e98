// Names -> tensors on a device. Streams every parameter from its file into the layout the kernels read.
import type { MatrixSource, ParameterSource } from '../checkpoint/layout.ts'
import { PANEL } from '../checkpoint/panels.ts'
import type { Device, LoadPart } from '../device.ts'
import { OpenMoeError } from '../errors.ts'
import type { DecoderLayerWeights } from '../layers/decoder_layer.ts'
import type { MlpWeights } from '../layers/dense_mlp.ts'
import { ropeTable } from '../ops/rope.ts'
import {
  bytesPerElement,
  type DType,
  type Matrix,
  MATRIX_DTYPES,
  type MatrixDtype,
  type MatrixShape,
  Tensor,
} from '../tensor.ts'
import { expectMemory } from './expect_memory.ts'
import { sourceBytes, sourceRows } from './file_source.ts'
import { isMoeLayer, type OpenMoeConfig } from './config.ts'

/**
 * Dtypes weights can have in memory. With int8 and int4 the embedding, whose rows are looked up, is bf16; norms and
 * routers are always f32.
 */
export type WeightDtype = MatrixDtype
export const WEIGHT_DTYPES: readonly WeightDtype[] = MATRIX_DTYPES

/** The dtype of what is not multiplied by: the embedding and the KV cache. */
export const floatDtype = (dtype: WeightDtype): 'f32' | 'bf16' => (dtype === 'f32' ? 'f32' : 'bf16')

export interface ModelWeights {
  /** [vocab_size, hidden_size] */
  embedTokens: Tensor
  layers: DecoderLayerWeights[]
  /** f32 [hidden_size] */
  norm: Tensor
  /** [vocab_size, hidden_size] */
  lmHead: Matrix
  /** f32 [max_positions, head_dim] */
  ropeTable: Tensor
  /** Everything above, to be freed. */
  tensors: readonly (Tensor | Matrix)[]
}

export interface LoadProgress {
  /** Bytes read from the files so far, and in all. */
  loadedBytes: number
  totalBytes: number
  /** 0 to 1 */
  ratio: number
}

export interface LoadWeightsOptions {
  dtype: WeightDtype
  onProgress?: (progress: LoadProgress) => void
  signal?: AbortSignal
}

/** Where packed weights come from; the loader reads files, the benchmarks make random numbers. */
export interface WeightSource {
  matrix(parts: readonly string[], shape: MatrixShape): Promise<Matrix>
  rows(key: string, dtype: DType, shape: readonly number[]): Promise<Tensor>
  /** Resolves when everything is in its place. */
  finish(): Promise<void>
}

/**
 * Loads every parameter of `parameters` (lib/checkpoint/layout.ts) onto the device. Peak memory is the weights plus a
 * working buffer per thread. On failure or abort everything allocated is freed.
 * @throws OpenMoeError ERR_OPENMOE_OUT_OF_MEMORY before anything is read, when the weights cannot fit
 */
export async function loadWeights(
  device: Device,
  config: OpenMoeConfig,
  parameters: ReadonlyMap<string, ParameterSource>,
  options: LoadWeightsOptions,
): Promise<ModelWeights> {
  const allocated: (Tensor | Matrix)[] = []
  const reader = new FileReader(device, parameters, options, allocated)
  try {
    return await buildWeights(device, config, options.dtype, reader, allocated)
  } catch (error) {
    for (const tensor of allocated) device.free(tensor)
    throw error
  }
}

/** Puts the parameters of `source` in the places the layers look for them. */
export async function buildWeights(
  device: Device,
  config: OpenMoeConfig,
  dtype: WeightDtype,
  source: WeightSource,
  allocated: (Tensor | Matrix)[],
): Promise<ModelWeights> {
  const { hiddenSize: d, intermediateSize: f, vocabSize, numExperts } = config
  const heads = config.numAttentionHeads * config.headDim
  const kvHeads = config.numKeyValueHeads * config.headDim
  const norm = (key: string): Promise<Tensor> => source.rows(key, 'f32', [d])
  const matrix = (key: string, outFeatures: number, inFeatures: number): Promise<Matrix> =>
    source.matrix([key], { count: 1, outFeatures, inFeatures })
  const mlp = async (prefix: string, count = 1): Promise<MlpWeights> => ({
    gateUp: await source.matrix([`${prefix}.gate`, `${prefix}.up`], {
      count,
      outFeatures: 3 * f,
      inFeatures: d,
      layout: 'gate_up',
    }),
    down: await source.matrix([`${prefix}.down`], { count, outFeatures: d, inFeatures: f }),
  })
  const embedTokens = await source.rows('embed_tokens', floatDtype(dtype), [vocabSize, d])
  const layers: DecoderLayerWeights[] = []
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const key = `layers.${i}`
    const layer: DecoderLayerWeights = {
      inputNorm: await norm(`${key}.input_norm`),
      attention: {
        q: await matrix(`${key}.q`, heads, d),
        k: await matrix(`${key}.k`, kvHeads, d),
        v: await matrix(`${key}.v`, kvHeads, d),
        o: await matrix(`${key}.o`, d, heads),
      },
      postAttentionNorm: await norm(`${key}.post_attention_norm`),
    }
    if (isMoeLayer(config, i)) {
      layer.moe = {
        experts: {
          router: await source.rows(`${key}.router`, 'f32', [numExperts, d]),
          ...(await mlp(`${key}.experts`, numExperts)),
        },
        preExtraMlpNorm: await norm(`${key}.pre_extra_mlp_norm`),
        extraMlp: await mlp(`${key}.extra_mlp`),
      }
    } else {
      layer.mlp = await mlp(`${key}.mlp`)
    }
    layers.push(layer)
  }
  const finalNorm = await norm('norm')
  const lmHead = await matrix('lm_head', vocabSize, d)
  const table = device.empty('f32', [config.maxPositionEmbeddings, config.headDim])
  allocated.push(table)
  const finished = source.finish()
  finished.catch(() => undefined) // it is awaited below, unless the table fails first
  await writeRopeTable(device, table, config)
  await finished
  return { embedTokens, layers, norm: finalNorm, lmHead, ropeTable: table, tensors: allocated }
}

/** In parts, so that the event loop has a turn between two of them: the whole takes milliseconds. */
async function writeRopeTable(device: Device, table: Tensor, config: OpenMoeConfig): Promise<void> {
  const { maxPositionEmbeddings, headDim, ropeTheta } = config
  for (let first = 0; first < maxPositionEmbeddings; first += ROPE_ROWS) {
    const count = Math.min(ROPE_ROWS, maxPositionEmbeddings - first)
    await device.write(table, ropeTable(count, headDim, ropeTheta, first).data, first * headDim)
  }
}

const ROPE_ROWS = 256

// One native call reads at most this much, or this share of it all, so that progress moves and an abort is noticed.
const BYTES_PER_CALL = 64 << 20
const SHARE_PER_CALL = 1 / 16

/**
 * Allocates everything, then reads: the system makes no mappings for one thread while others fill pages. While one call
 * reads, the next waits at the device, so that it is never idle.
 */
class FileReader implements WeightSource {
  private readonly device: Device
  private readonly parameters: ReadonlyMap<string, ParameterSource>
  private readonly options: LoadWeightsOptions
  private readonly allocated: (Tensor | Matrix)[]
  private readonly totalBytes: number
  private readonly bytesPerCall: number
  private loadedBytes = 0
  private readonly calls: { parts: LoadPart[]; bytes: number }[] = []

  constructor(
    device: Device,
    parameters: ReadonlyMap<string, ParameterSource>,
    options: LoadWeightsOptions,
    allocated: (Tensor | Matrix)[],
  ) {
    this.device = device
    this.parameters = parameters
    this.options = options
    this.allocated = allocated
    const sources = [...parameters.values()].flatMap((parameter) => parameter.matrices)
    this.totalBytes = sources.reduce((sum, source) => sum + sourceBytes(source), 0)
    this.bytesPerCall = Math.min(BYTES_PER_CALL, this.totalBytes * SHARE_PER_CALL)
    const needed = [...parameters.values()].reduce((sum, p) => sum + bytesInMemory(p, options.dtype), 0)
    expectMemory(needed, device.name)
  }

  matrix(parts: readonly string[], shape: MatrixShape): Promise<Matrix> {
    const matrix = this.device.emptyMatrix(this.options.dtype, shape)
    this.allocated.push(matrix)
    let rowOffset = 0
    for (const part of parts) {
      const { matrices } = this.parameter(part)
      for (const [index, source] of matrices.entries()) {
        for (const [row, rows, bytes] of this.blocks(source)) {
          const block = sourceRows(source, row, rows)
          this.add({ source: block, matrix, index, rowOffset: rowOffset + row }, bytes)
        }
      }
      rowOffset += matrices[0]?.rows ?? 0
    }
    return Promise.resolve(matrix)
  }

  rows(key: string, dtype: DType, shape: readonly number[]): Promise<Tensor> {
    const tensor = this.device.empty(dtype, shape)
    this.allocated.push(tensor)
    const [source] = this.parameter(key).matrices
    if (!source) throw new OpenMoeError('ERR_OPENMOE_INTERNAL', `${key} has no source`)
    for (const [row, rows, bytes] of this.blocks(source)) {
      const view = { buffer: tensor.buffer!, offset: row * source.cols * bytesPerElement(dtype) }
      const to = new Tensor(this.device, dtype, [rows, source.cols], view)
      this.add({ source: sourceRows(source, row, rows), rows: to }, bytes)
    }
    return Promise.resolve(tensor)
  }

  /** Each call waits for the one before the last, so there are never more than two. */
  async finish(): Promise<void> {
    let running = Promise.resolve()
    for (const { parts, bytes } of this.calls) {
      this.options.signal?.throwIfAborted()
      const before = running
      running = this.load(parts, bytes)
      running.catch(() => undefined) // it is awaited later, or the one before it failed too
      await before
    }
    await running
  }

  private parameter(key: string): ParameterSource {
    const parameter = this.parameters.get(key)
    if (!parameter) throw new OpenMoeError('ERR_OPENMOE_INTERNAL', `no parameter is named ${key}`)
    return parameter
  }

  /** [first row, rows, bytes] of blocks that are small enough for one call. */
  private *blocks(source: MatrixSource): Generator<[number, number, number]> {
    const rowBytes = sourceBytes(source) / Math.max(1, source.rows)
    // Rows that are not contiguous (stacked experts) are read column by column: a block of them would read it all.
    const whole = source.colStride !== 1
    // Else a call covers whole weight panels.
    const step = whole ? source.rows : Math.max(1, Math.floor(this.bytesPerCall / rowBytes / PANEL)) * PANEL
    for (let row = 0; row < source.rows; row += step) {
      const rows = Math.min(step, source.rows - row)
      yield [row, rows, rows * rowBytes]
    }
  }

  private add(part: LoadPart, bytes: number): void {
    let call = this.calls.at(-1)
    if (!call || call.bytes + bytes > this.bytesPerCall) this.calls.push((call = { parts: [], bytes: 0 }))
    call.parts.push(part)
    call.bytes += bytes
  }

  private async load(parts: LoadPart[], bytes: number): Promise<void> {
    const { options, totalBytes } = this
    await this.device.load(parts)
    options.signal?.throwIfAborted()
    this.loadedBytes += bytes
    const { loadedBytes } = this
    options.onProgress?.({ loadedBytes, totalBytes, ratio: loadedBytes / totalBytes })
  }
}

/** Bytes per weight in memory; quantised ones share a 16-bit scale in groups of 128 and 32. */
const WEIGHT_BYTES = { f32: 4, bf16: 2, int8: 1 + 2 / 128, int4: 0.5 + 2 / 32 } as const

function bytesInMemory({ role, shape }: ParameterSource, dtype: WeightDtype): number {
  const kept =
    role === 'matrix' || role === 'experts' ? dtype : role === 'embedding' ? floatDtype(dtype) : 'f32'
  return shape.reduce((product, side) => product * side, WEIGHT_BYTES[kept])
}
