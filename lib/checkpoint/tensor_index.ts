/** Bytes per element of every dtype a safetensors header may name. F32, BF16 and F16 are what weights may have. */
export const DTYPE_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const

export type TensorDtype = keyof typeof DTYPE_BYTES

export function isTensorDtype(name: string): name is TensorDtype {
  return Object.hasOwn(DTYPE_BYTES, name)
}

/** Where one stored tensor lies. Nothing of its data has been read. */
export interface TensorEntry {
  name: string
  file: string // absolute path
  dtype: TensorDtype
  shape: readonly number[]
  offset: number // byte offset of element 0 in the file, storage offset included
  strides: readonly number[] // in elements; a .bin may hold views
}

export interface CheckpointFile {
  path: string
  bytes: number
}

export interface CheckpointIndex {
  format: 'safetensors' | 'torch'
  files: CheckpointFile[]
  tensors: Map<string, TensorEntry> // a Map, because a file may name a tensor `__proto__`
}

// Limits far beyond any OpenMoE checkpoint (the 34B has about 1,000 tensors in its longest spelling), small
// enough that a hostile file cannot make us spend seconds or gigabytes on describing itself.
export const MAX_TENSORS = 131_072
export const MAX_RANK = 16

/** Row-major strides in elements. Zero-size tensors get the strides of a tensor with sides of at least one. */
export function contiguousStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length)
  let step = 1
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = step
    step *= Math.max(1, shape[axis]!)
  }
  return strides
}

/** Number of elements, or undefined when it is not exactly representable (a product of shape entries can overflow). */
export function elementCount(shape: readonly number[]): number | undefined {
  if (shape.includes(0)) return 0
  let count = 1
  for (const size of shape) {
    count *= size
    // Any product that rounds is beyond this bound, so a count at or below it is exact.
    if (count > Number.MAX_SAFE_INTEGER) return undefined
  }
  return count
}

/** A name out of a file, fit for a message: control characters escaped, long names cut. */
export function quoteName(name: string): string {
  return JSON.stringify(name.length > 120 ? `${name.slice(0, 117)}...` : name)
}

export function formatShape(shape: readonly number[]): string {
  return `[${shape.join(', ')}]`
}
