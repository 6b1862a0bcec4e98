import { OpenMoeError } from '../errors.ts'
import type { OpenMoeConfig } from '../model/config.ts'
import {
  canonicalParameters,
  type CanonicalParameter,
  type ParameterRole,
  type Side,
} from './canonical_parameters.ts'
import { throwMismatch, type Mismatch } from './layout_errors.ts'
import { findPanels, type PanelDtype } from './panels.ts'
import { quoteName, type CheckpointIndex, type TensorDtype, type TensorEntry } from './tensor_index.ts'
export { canonicalParameters, type CanonicalParameter, type ParameterRole } from './canonical_parameters.ts'

export type Layout = 'original' | 'openmoe-pt'

/** A 2-D [rows, cols] = [out, in] view of stored elements; a norm is one row. INT8 and INT4 are packed panels. */
export interface MatrixSource {
  file: string
  dtype: 'F32' | 'BF16' | 'F16' | PanelDtype
  offset: number // bytes from the start of the file to element (0, 0)
  rows: number
  cols: number
  rowStride: number // in elements
  colStride: number
}

export interface ParameterSource {
  key: string
  role: ParameterRole
  shape: number[] // the canonical shape
  tensors: string[] // the checkpoint's names of what it is read from
  matrices: MatrixSource[] // one, or one per expert
}

const ROUTERS: Record<Layout, RegExp> = {
  original: /^model\.layers\.(\d+)\.mlp\.gate_weight$/,
  'openmoe-pt': /^model\.layers\.(\d+)\.mlp\.gate\.weight$/,
}
// RoPE tables that some exporters keep. They follow from the config, so they carry nothing.
const HARMLESS = /(?:^|\.)rotary_emb\.(?:inv_freq|sin_cached|cos_cached)$/

/** Tells the two namings apart by the router tensor (spec 6.1), which no other architecture has in this company. */
export function detectLayout(index: Pick<CheckpointIndex, 'tensors' | 'files'>): Layout {
  const names = [...index.tensors.keys()]
  // Other mixtures of experts call their router mlp.gate.weight too; the always-on extra FFN is OpenMoE's own.
  const hasExtraMlp = names.some((name) => name.includes('.extra_mlp.'))
  const found = (['original', 'openmoe-pt'] as const).filter((layout) =>
    names.some((name) => ROUTERS[layout].test(name)),
  )
  if (found.length === 1 && (hasExtraMlp || found[0] === 'original')) return found[0]!
  const where = index.files[0]?.path ?? 'the checkpoint'
  const listed = names.slice(0, 5).map(quoteName).join(', ')
  const what =
    found.length === 2
      ? 'it mixes router tensors of two layouts (mlp.gate_weight and mlp.gate.weight)'
      : found.length === 1
        ? 'it has routers (mlp.gate.weight) but no extra_mlp tensors, so it is another mixture of experts'
        : 'it has no OpenMoE router (model.layers.<i>.mlp.gate_weight or model.layers.<i>.mlp.gate.weight)'
  throw new OpenMoeError(
    'ERR_OPENMOE_NOT_OPENMOE',
    `${where}: ${what}. It holds ${names.length} tensors${listed && `: ${listed}`}${names.length > 5 ? ', ...' : ''}. ` +
      'openmoe runs OpenMoE checkpoints only, for example OrionZheng/openmoe-8b.',
  )
}

/** Maps a checkpoint to the parameters a config needs; the first kind of mismatch found is thrown, with examples. */
export function resolveParameters(
  index: CheckpointIndex,
  config: OpenMoeConfig,
): Map<string, ParameterSource> {
  const layout = detectLayout(index)
  const resolved = new Map<string, ParameterSource>()
  const used = new Set<string>()
  const mismatch: Mismatch = { index, config, missing: [], shapes: [], surplus: [] }
  for (const parameter of canonicalParameters(config)) {
    const stored = storedTensors(parameter, layout, config)
    const matrices: MatrixSource[] = []
    for (const { name, sides, view } of stored) {
      const entry = index.tensors.get(name)
      const panels = !entry && layout === 'original' && findPanels(index, name, parameter.shape)
      if (panels) {
        used.add(panels.entry.name)
        matrices.push(...panels.matrices)
        continue
      }
      if (!entry) {
        mismatch.missing.push(name)
        continue
      }
      used.add(name)
      const fits =
        entry.shape.length === sides.length && sides.every(({ value }, axis) => value === entry.shape[axis])
      if (fits) matrices.push(...view(entry))
      else mismatch.shapes.push({ entry, sides })
    }
    const { key, role, shape } = parameter
    resolved.set(key, { key, role, shape, tensors: stored.map(({ name }) => name), matrices })
  }
  for (const name of index.tensors.keys())
    if (!used.has(name) && !HARMLESS.test(name)) mismatch.surplus.push(name)
  throwMismatch(mismatch)
  return resolved
}

interface StoredTensor {
  name: string
  sides: Side[] // of the stored shape, which may be transposed or stacked
  view: (entry: TensorEntry) => MatrixSource[]
}

const SIMPLE_NAMES: Record<string, string> = {
  embed_tokens: 'embed_tokens',
  norm: 'norm',
  input_norm: 'input_layernorm',
  post_attention_norm: 'post_attention_layernorm',
  pre_extra_mlp_norm: 'pre_extra_mlp_layernorm',
  q: 'self_attn.q_proj',
  k: 'self_attn.k_proj',
  v: 'self_attn.v_proj',
  o: 'self_attn.o_proj',
  'mlp.gate': 'mlp.gate_proj',
  'mlp.up': 'mlp.up_proj',
  'mlp.down': 'mlp.down_proj',
  'extra_mlp.gate': 'extra_mlp.gate_proj',
  'extra_mlp.up': 'extra_mlp.up_proj',
  'extra_mlp.down': 'extra_mlp.down_proj',
}
const STACKED_NAMES: Record<string, string> = { gate: 'wi_gate', up: 'wi_up', down: 'wo' }

/** The tensors a parameter is read from: one, or in openmoe-pt one per expert. */
function storedTensors(parameter: CanonicalParameter, layout: Layout, config: OpenMoeConfig): StoredTensor[] {
  const { key, role, sides } = parameter
  if (key === 'lm_head') return [{ name: 'lm_head.weight', sides, view: (entry) => [matrix(entry)] }]
  const [, prefix = '', part] = /^(layers\.\d+\.)?(.*)$/.exec(key) as unknown as [
    string,
    string | undefined,
    string,
  ]
  const start = `model.${prefix}`
  if (role === 'router') {
    const name = `${start}mlp.${layout === 'original' ? 'gate_weight' : 'gate.weight'}`
    return [{ name, sides, view: (entry) => [matrix(entry)] }]
  }
  if (role !== 'experts') {
    const view = role === 'norm' ? vector : matrix
    return [{ name: `${start}${SIMPLE_NAMES[part]}.weight`, sides, view: (entry) => [view(entry)] }]
  }
  const projection = part.slice('experts.'.length)
  const [experts, out, input] = sides as [Side, Side, Side]
  if (layout === 'original') {
    // Stacked, and stored input dimension first.
    const name = `${start}mlp.experts.${STACKED_NAMES[projection]}`
    return [{ name, sides: [experts, input, out], view: stackedExperts }]
  }
  return Array.from({ length: config.numExperts }, (_, expert) => ({
    name: `${start}mlp.experts.${expert}.${projection}_proj.weight`,
    sides: [out, input],
    view: (entry: TensorEntry) => [matrix(entry)],
  }))
}

function matrix(entry: TensorEntry): MatrixSource {
  const [rows, cols] = entry.shape as [number, number]
  const [rowStride, colStride] = entry.strides as [number, number]
  return {
    file: entry.file,
    dtype: floatDtype(entry),
    offset: entry.offset,
    rows,
    cols,
    rowStride,
    colStride,
  }
}

function vector(entry: TensorEntry): MatrixSource {
  const [cols] = entry.shape as [number]
  const [colStride] = entry.strides as [number]
  return {
    file: entry.file,
    dtype: floatDtype(entry),
    offset: entry.offset,
    rows: 1,
    cols,
    rowStride: cols * colStride,
    colStride,
  }
}

/** [experts, in, out] as one [out, in] view per expert: the last two strides change places. */
function stackedExperts(entry: TensorEntry): MatrixSource[] {
  const [experts, cols, rows] = entry.shape as [number, number, number]
  const [expertStride, colStride, rowStride] = entry.strides as [number, number, number]
  const dtype = floatDtype(entry)
  const step = expertStride * ELEMENT_BYTES[dtype]
  return Array.from({ length: experts }, (_, expert) => ({
    file: entry.file,
    dtype,
    offset: entry.offset + expert * step,
    rows,
    cols,
    rowStride,
    colStride,
  }))
}

const ELEMENT_BYTES = { F32: 4, BF16: 2, F16: 2 } as const

function floatDtype(entry: TensorEntry): 'F32' | 'BF16' | 'F16' {
  const dtype: TensorDtype = entry.dtype
  if (dtype === 'F32' || dtype === 'BF16' || dtype === 'F16') return dtype
  throw new OpenMoeError(
    'ERR_OPENMOE_DTYPE',
    `${entry.file}: tensor ${quoteName(entry.name)} is ${dtype}, weights must be F32, BF16 or F16. Convert the checkpoint.`,
  )
}
