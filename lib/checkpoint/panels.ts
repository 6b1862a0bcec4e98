// Quantised matrices in a checkpoint: packed as the CPU kernels read them, so that loading is reading. A matrix `NAME`
// becomes the U8 tensor `NAME.int8_panels` or `NAME.int4_panels` of shape [panels, panel_bytes], stacked experts
// [experts, panels, panel_bytes]; docs/quantization.md and native/matmul/panel.h have the layout of a panel.
import { OpenMoeError } from '../errors.ts'
import { formatShape, quoteName, type CheckpointIndex, type TensorEntry } from './tensor_index.ts'

export type PanelDtype = 'INT8' | 'INT4'

/** Output features of a panel. */
export const PANEL = 32
const GROUP = { INT8: 128, INT4: 32 } as const // neighbouring inputs that share a scale
const SCALE_BYTES = 2
const SUFFIXES = { INT8: '.int8_panels', INT4: '.int4_panels' } as const
const WEIGHT_BITS = { INT8: 8, INT4: 4 } as const

export const isPanelDtype = (dtype: string): dtype is PanelDtype => dtype === 'INT8' || dtype === 'INT4'

export const panelTensorName = (name: string, dtype: PanelDtype): string => name + SUFFIXES[dtype]

/** Bytes of one panel: per group of inputs 32 scales, and 32 weights an input. */
export function panelBytes(dtype: PanelDtype, inFeatures: number): number {
  const group = PANEL * (SCALE_BYTES + (GROUP[dtype] * WEIGHT_BITS[dtype]) / 8)
  return Math.ceil(inFeatures / GROUP[dtype]) * group
}

export const panelShape = (dtype: PanelDtype, rows: number, cols: number): [number, number] => [
  Math.ceil(rows / PANEL),
  panelBytes(dtype, cols),
]

/** A 2-D [rows, cols] matrix stored as panels. */
export interface PanelSource {
  file: string
  dtype: PanelDtype
  offset: number // bytes from the start of the file to the first panel
  rows: number
  cols: number
  rowStride: number // as if it lay row after row: not used
  colStride: number
}

/** The panels stored for the matrix or the stack of experts `name`, if the checkpoint has any. */
export function findPanels(
  index: CheckpointIndex,
  name: string,
  shape: readonly number[],
): { entry: TensorEntry; matrices: PanelSource[] } | undefined {
  const dtype = (['INT8', 'INT4'] as const).find((d) => index.tensors.has(panelTensorName(name, d)))
  if (!dtype) return undefined
  const entry = index.tensors.get(panelTensorName(name, dtype))!
  const [cols = 0, rows = 0, ...stack] = [...shape].reverse()
  const [panels, bytes] = panelShape(dtype, rows, cols)
  const expected = [...stack, panels, bytes]
  if (entry.dtype !== 'U8' || entry.shape.join() !== expected.join()) {
    throw new OpenMoeError(
      'ERR_OPENMOE_TENSOR_SHAPE',
      `${entry.file}: ${quoteName(entry.name)} is ${entry.dtype} ${formatShape(entry.shape)}, expected U8 ${formatShape(expected)} ` +
        `for a matrix of ${formatShape(shape)}. Use the config.json of these weights, or convert the checkpoint again.`,
    )
  }
  const matrices = Array.from({ length: stack[0] ?? 1 }, (_, i) => ({
    file: entry.file,
    dtype,
    offset: entry.offset + i * panels * bytes,
    rows,
    cols,
    rowStride: cols,
    colStride: 1,
  }))
  return { entry, matrices }
}
