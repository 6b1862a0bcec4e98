import { OpenMoeError } from './errors.ts'
import type { NativeBuffer } from './native.ts'

/** Element types of tensors. */
export const DTYPES = ['f32', 'bf16', 'i32', 'u8', 'f16'] as const
export type DType = (typeof DTYPES)[number]
/** What the numbers of a packed matrix can be; groups of 128 int8 or 32 int4 share a scale (native/matmul/panel.h). */
export const MATRIX_DTYPES = ['f32', 'bf16', 'int8', 'int4'] as const
export type MatrixDtype = (typeof MATRIX_DTYPES)[number]
// The order is shared with native/program/dtype.h.
const NATIVE_DTYPES: readonly string[] = [...DTYPES, 'int8', 'int4']
export type TypedArray = Float32Array | Int32Array | Uint8Array | Uint16Array

const BYTES = { f32: 4, bf16: 2, i32: 4, u8: 1, f16: 2 } as const
const ARRAYS = {
  f32: Float32Array,
  bf16: Uint16Array,
  i32: Int32Array,
  u8: Uint8Array,
  f16: Uint16Array,
} as const

export const bytesPerElement = (dtype: DType): number => BYTES[dtype]
export const dtypeIndex = (dtype: DType | MatrixDtype): number => NATIVE_DTYPES.indexOf(dtype)
export const isQuantised = (dtype: DType | MatrixDtype): dtype is 'int8' | 'int4' =>
  dtype === 'int8' || dtype === 'int4'
/** A view of `length` numbers in a buffer. */
export const typedArrayOn = (dtype: DType, buffer: ArrayBuffer, offset: number, length: number): TypedArray =>
  new ARRAYS[dtype](buffer, offset, length)
export const newTypedArray = (dtype: DType, length: number): TypedArray => new ARRAYS[dtype](length)

export function numElements(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1)
}

/** A tensor in host memory: what goes into a run and what comes out. bf16 and f16 are raw 16-bit patterns. */
export interface HostTensor {
  dtype: DType
  shape: readonly number[]
  data: TypedArray
}

/** `tensor(new Float32Array(6), [2, 3])`; the dtype follows from the array (Uint16Array is bf16). */
export function tensor(data: TypedArray, shape: readonly number[]): HostTensor {
  const dtype = dtypeOf(data)
  if (numElements(shape) !== data.length) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `tensor: the shape [${shape.join(', ')}] has ${numElements(shape)} elements, the array ${data.length}`,
    )
  }
  return { dtype, shape, data }
}

function dtypeOf(data: TypedArray): DType {
  if (data instanceof Float32Array) return 'f32'
  if (data instanceof Int32Array) return 'i32'
  if (data instanceof Uint8Array) return 'u8'
  if (data instanceof Uint16Array) return 'bf16'
  throw new OpenMoeError(
    'ERR_OPENMOE_INVALID_ARG',
    'tensor: expected a Float32Array, Int32Array, Uint8Array or Uint16Array (bf16)',
  )
}

/** Rows grouped by expert in a device's own layout: a tensor between moePermute() and moeUnpermute(). */
export interface Panel {
  /** i32 [num_experts + 1]: where each expert's rows begin, which the layout depends on. */
  expertOffsets: Tensor
  bytes: number
}

/**
 * A tensor that ops take and make. Either persistent on a device (`buffer` set: weights, caches), or a value inside
 * one program, whose memory the program plans. Its elements lie row after row unless it is a panel.
 */
export class Tensor {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly buffer: NativeBuffer | null
  readonly offset: number
  readonly panel: Panel | null
  /** The Program (or Device) it belongs to. */
  readonly owner: object

  constructor(
    owner: object,
    dtype: DType,
    shape: readonly number[],
    storage?: { buffer: NativeBuffer; offset: number },
    panel: Panel | null = null,
  ) {
    this.owner = owner
    this.dtype = dtype
    this.shape = shape
    this.buffer = storage?.buffer ?? null
    this.offset = storage?.offset ?? 0
    this.panel = panel
  }

  get layout(): 'rows' | 'panel' {
    return this.panel ? 'panel' : 'rows'
  }

  get bytes(): number {
    return this.panel?.bytes ?? numElements(this.shape) * BYTES[this.dtype]
  }
}

/** What the rows of a matrix are: `gate_up` is a | b | up, the weights of a gated activation (native/program/dtype.h). */
export const MATRIX_LAYOUTS = ['rows', 'gate_up'] as const
export type MatrixLayout = (typeof MATRIX_LAYOUTS)[number]

export interface MatrixShape {
  count: number
  outFeatures: number
  inFeatures: number
  /** Default: 'rows'. A 'gate_up' matrix is for groupedGemmSwiglu() only. */
  layout?: MatrixLayout
}

/** Weights packed into the device's own layout: `count` matrices of [outFeatures, inFeatures]. */
export class Matrix {
  readonly owner: object
  readonly dtype: MatrixDtype
  readonly layout: MatrixLayout
  readonly count: number
  readonly outFeatures: number
  readonly inFeatures: number
  readonly buffer: NativeBuffer
  readonly bytes: number
  constructor(
    owner: object,
    dtype: MatrixDtype,
    shape: MatrixShape,
    storage: { buffer: NativeBuffer; bytes: number },
  ) {
    this.owner = owner
    this.dtype = dtype
    this.layout = shape.layout ?? 'rows'
    this.count = shape.count
    this.outFeatures = shape.outFeatures
    this.inFeatures = shape.inFeatures
    this.buffer = storage.buffer
    this.bytes = storage.bytes
  }
}
