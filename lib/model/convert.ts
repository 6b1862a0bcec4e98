// Any accepted checkpoint -> one folder with one safetensors file in the original layout.
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type MatrixSource, type ParameterSource, resolveParameters } from '../checkpoint/layout.ts'
import { openCheckpoint } from '../checkpoint/open_checkpoint.ts'
import { isPanelDtype, PANEL, type PanelDtype, panelShape, panelTensorName } from '../checkpoint/panels.ts'
import { type TensorToWrite, writeSafetensors } from '../checkpoint/safetensors.ts'
import { type Device, openDevice } from '../device.ts'
import { OpenMoeError } from '../errors.ts'
import { bytesPerElement, isQuantised } from '../tensor.ts'
import { loadConfig } from './config.ts'
import { sourceRows } from './file_source.ts'
import { floatDtype, type LoadProgress, type WeightDtype } from './weights.ts'

export interface ConvertOptions {
  /**
   * 'auto' keeps what is stored (f16 becomes f32). Norms and routers are never narrowed; the embedding is bf16 beside
   * int8 and int4 matrices.
   */
  dtype?: 'auto' | WeightDtype
  onProgress?: (progress: LoadProgress) => void
  signal?: AbortSignal
}

const TOKENIZER_FILES = [
  'spiece.model',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'generation_config.json',
]
// Read, converted and written at a time.
const BLOCK_BYTES = 32 << 20

/** @throws OpenMoeError ERR_OPENMOE_INVALID_ARG when `out` exists and holds files */
export async function convertCheckpoint(
  folder: string,
  out: string,
  options: ConvertOptions = {},
): Promise<{ path: string; bytes: number; tensors: number }> {
  const { config } = await loadConfig(folder)
  const parameters = resolveParameters(await openCheckpoint(folder), config)
  await mkdir(out, { recursive: true })
  if ((await readdir(out)).length > 0) {
    throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `${out} is not empty. Give a new folder.`)
  }
  // The CPU device converts and transposes while it reads; nothing is computed.
  const device = await openDevice('cpu')
  try {
    const writer = new ConvertedTensors(device, [...parameters.values()], options)
    const written = await writeSafetensors(join(out, 'model.safetensors'), writer.tensors(), {
      format: 'pt',
    })
    await copyConfig(folder, out, options.dtype)
    return { ...written, tensors: parameters.size }
  } finally {
    await device.dispose()
  }
}

async function copyConfig(folder: string, out: string, dtype: ConvertOptions['dtype']): Promise<void> {
  const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>
  if (dtype === 'bf16') config.torch_dtype = 'bfloat16'
  if (dtype === 'f32') config.torch_dtype = 'float32'
  await writeFile(join(out, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
  const present = new Set(await readdir(folder))
  for (const name of TOKENIZER_FILES) {
    if (present.has(name)) await copyFile(join(folder, name), join(out, name))
  }
}

class ConvertedTensors {
  private readonly device: Device
  private readonly parameters: readonly ParameterSource[]
  private readonly options: ConvertOptions
  private readonly totalBytes: number
  private loadedBytes = 0

  constructor(device: Device, parameters: readonly ParameterSource[], options: ConvertOptions) {
    this.device = device
    this.parameters = parameters
    this.options = options
    this.totalBytes = parameters.reduce((sum, p) => sum + p.shape.reduce((a, b) => a * b, 1), 0)
  }

  *tensors(): Generator<TensorToWrite> {
    for (const parameter of this.parameters) {
      const dtype = this.dtypeOf(parameter)
      const { role, key, shape } = parameter
      const [experts, rows, cols] = shape
      if (isQuantised(dtype)) {
        yield this.panels(parameter, dtype === 'int8' ? 'INT8' : 'INT4')
        continue
      }
      yield {
        name: originalName(key),
        dtype: dtype === 'f32' ? 'F32' : 'BF16',
        // Stacked experts are stored input dimension first (spec 6.1).
        shape: role === 'experts' ? [experts!, cols!, rows!] : shape,
        data: () =>
          this.chunks(role === 'experts' ? parameter.matrices.map(transposed) : parameter.matrices, dtype),
      }
    }
  }

  private dtypeOf({ role, matrices, key }: ParameterSource): WeightDtype {
    const { dtype = 'auto' } = this.options
    const [panels] = matrices.filter((source) => isPanelDtype(source.dtype))
    if (panels) {
      const kept = panels.dtype === 'INT8' ? 'int8' : 'int4'
      if (dtype === 'auto' || dtype === kept) return kept
      throw new OpenMoeError(
        'ERR_OPENMOE_DTYPE',
        `${panels.file}: ${key} is stored as ${kept}, which cannot become ${dtype}. Convert the original checkpoint.`,
      )
    }
    const stored = matrices.every((source) => source.dtype === 'BF16') ? 'bf16' : 'f32'
    if (dtype === 'auto' || role === 'norm' || role === 'router') return stored
    return role === 'embedding' ? floatDtype(dtype) : dtype
  }

  /** A matrix, or a stack of experts, in the layout of lib/checkpoint/panels.ts. */
  private panels({ key, shape, matrices }: ParameterSource, dtype: PanelDtype): TensorToWrite {
    const [cols = 0, rows = 0, ...stack] = [...shape].reverse()
    return {
      name: panelTensorName(originalName(key), dtype),
      dtype: 'U8',
      shape: [...stack, ...panelShape(dtype, rows, cols)],
      data: () => this.panelChunks(matrices, dtype),
    }
  }

  private async *panelChunks(
    matrices: readonly MatrixSource[],
    dtype: PanelDtype,
  ): AsyncGenerator<Uint8Array> {
    for (const source of matrices) {
      const step = PANEL * Math.max(1, Math.floor(BLOCK_BYTES / (PANEL * 4 * source.cols)))
      for (let row = 0; row < source.rows; row += step) {
        this.options.signal?.throwIfAborted()
        const rows = Math.min(step, source.rows - row)
        const block = this.device.emptyMatrix(dtype === 'INT8' ? 'int8' : 'int4', {
          count: 1,
          outFeatures: rows,
          inFeatures: source.cols,
        })
        try {
          await this.device.loadMatrix(sourceRows(source, row, rows), block, 0, 0)
          yield await this.device.readMatrix(block, 0, block.bytes)
        } finally {
          this.device.free(block)
        }
        this.report(rows * source.cols)
      }
    }
  }

  private async *chunks(
    matrices: readonly MatrixSource[],
    dtype: 'f32' | 'bf16',
  ): AsyncGenerator<Uint8Array> {
    const size = bytesPerElement(dtype)
    for (const source of matrices) {
      const step = Math.max(1, Math.floor(BLOCK_BYTES / (source.cols * size)))
      for (let row = 0; row < source.rows; row += step) {
        this.options.signal?.throwIfAborted()
        const rows = Math.min(step, source.rows - row)
        const block = this.device.empty(dtype, [rows, source.cols])
        try {
          await this.device.loadRows(sourceRows(source, row, rows), block)
          const { data } = await this.device.read(block)
          yield new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
        } finally {
          this.device.free(block)
        }
        this.report(rows * source.cols)
      }
    }
  }

  private report(weights: number): void {
    this.loadedBytes += weights
    const { loadedBytes, totalBytes } = this
    this.options.onProgress?.({ loadedBytes, totalBytes, ratio: loadedBytes / totalBytes })
  }
}

const transposed = (source: MatrixSource): MatrixSource => ({
  ...source,
  rows: source.cols,
  cols: source.rows,
  rowStride: source.colStride,
  colStride: source.rowStride,
})

/** Our key -> the tensor name of the original layout (spec 6.1). */
export function originalName(key: string): string {
  if (key === 'lm_head') return 'lm_head.weight'
  const [, layer = '', part = key] = /^(layers\.\d+\.)?(.*)$/.exec(key) ?? []
  return `model.${layer}${ORIGINAL_NAMES[part] ?? `${part}.weight`}`
}

const ORIGINAL_NAMES: Readonly<Record<string, string>> = {
  input_norm: 'input_layernorm.weight',
  post_attention_norm: 'post_attention_layernorm.weight',
  pre_extra_mlp_norm: 'pre_extra_mlp_layernorm.weight',
  ...Object.fromEntries(['q', 'k', 'v', 'o'].map((name) => [name, `self_attn.${name}_proj.weight`])),
  ...Object.fromEntries(
    ['mlp', 'extra_mlp'].flatMap((mlp) =>
      ['gate', 'up', 'down'].map((name) => [`${mlp}.${name}`, `${mlp}.${name}_proj.weight`]),
    ),
  ),
  router: 'mlp.gate_weight',
  'experts.gate': 'mlp.experts.wi_gate',
  'experts.up': 'mlp.experts.wi_up',
  'experts.down': 'mlp.experts.wo',
}
