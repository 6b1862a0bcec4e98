// A device as TypeScript sees it: memory, and programs that run on its thread. The event loop never computes.
import { CompiledProgram, type HostResults, type Results, type RunOptions } from './compiled_program.ts'
import { OpenMoeError } from './errors.ts'
import { type DeviceOptions, openBackend } from './backends.ts'
import {
  callNative,
  native,
  type NativeBuffer,
  type NativeDevice,
  type NativeLoadPart,
  type NativeMatrixShape,
  type NativeMatrixSource,
} from './native.ts'
import { Program, type RecordingDevice } from './program.ts'
import {
  bytesPerElement,
  DTYPES,
  type DType,
  dtypeIndex,
  type HostTensor,
  Matrix,
  MATRIX_LAYOUTS,
  type MatrixDtype,
  type MatrixLayout,
  type MatrixShape,
  newTypedArray,
  numElements,
  Tensor,
  type TypedArray,
} from './tensor.ts'

export { type DeviceInfo, type DeviceOptions, devices } from './backends.ts'
export {
  CompiledProgram,
  type HostResults,
  type Results,
  type RunOptions,
  type RunResult,
} from './compiled_program.ts'

/** A [rows, cols] view of a file, and where it goes: rows `rowOffset`.. of matrix `index`, or a plain tensor. */
export type LoadPart = { source: NativeMatrixSource } & (
  { matrix: Matrix; index: number; rowOffset: number } | { rows: Tensor }
)

export class Device implements RecordingDevice {
  readonly name: string
  readonly panelDtype: DType | null
  private nativeHandle: NativeDevice | null
  private closing: Promise<void> | null = null

  /** Use `openDevice()`. */
  constructor(name: string, handle: NativeDevice) {
    this.name = name
    this.nativeHandle = handle
    const panels = DTYPES[callNative(() => native.panelDtype(handle))] ?? 'f32'
    this.panelDtype = panels === 'f32' ? null : panels
  }

  get handle(): NativeDevice {
    if (!this.nativeHandle || this.closing) {
      throw new OpenMoeError('ERR_OPENMOE_DISPOSED', `The device ${this.name} was disposed. Open a new one.`)
    }
    return this.nativeHandle
  }

  /** Records `body`, runs it once and returns what it returned, as host tensors. */
  async run<R extends Results>(body: (p: Program) => R, options: RunOptions = {}): Promise<HostResults<R>> {
    const program = this.compile(body, options)
    try {
      return (await program.run({}, options)).values
    } finally {
      program.dispose()
    }
  }

  /** Records `body` without running it. */
  compile<R extends Results>(
    body: (p: Program) => R,
    options: Pick<RunOptions, 'taps'> = {},
  ): CompiledProgram<R> {
    const program = new Program(this, options.taps)
    return new CompiledProgram(this, program, body(program))
  }

  /** A zeroed tensor that stays on the device until `free()`. */
  empty(dtype: DType, shape: readonly number[]): Tensor {
    const bytes = numElements(shape) * bytesPerElement(dtype)
    const buffer = callNative(() => native.allocate(this.handle, bytes))
    return new Tensor(this, dtype, shape, { buffer, offset: 0 })
  }

  /** The first elements of a persistent tensor, as a tensor of its own over the same memory. */
  view(of: Tensor, shape: readonly number[]): Tensor {
    return new Tensor(this, of.dtype, shape, { buffer: persistent(of), offset: of.offset })
  }

  /** Copies a host tensor to the device. */
  async upload(from: HostTensor): Promise<Tensor> {
    const tensor = this.empty(from.dtype, from.shape)
    await this.write(tensor, from.data)
    return tensor
  }

  write(tensor: Tensor, data: TypedArray, elementOffset = 0): Promise<void> {
    const offset = tensor.offset + elementOffset * bytesPerElement(tensor.dtype)
    return callNative(() => native.write(this.handle, persistent(tensor), offset, data))
  }

  async read(tensor: Tensor): Promise<HostTensor> {
    const data = newTypedArray(tensor.dtype, numElements(tensor.shape))
    await callNative(() => native.read(this.handle, persistent(tensor), tensor.offset, data))
    return { dtype: tensor.dtype, shape: tensor.shape, data }
  }

  /** Of a GPU: bytes allocated here, and free and total on all of it. Zeros on the CPU. */
  memory(): { allocatedBytes: number; freeBytes: number; totalBytes: number } {
    return callNative(() => native.deviceMemory(this.handle))
  }

  /** Bytes a packed matrix takes on this device. */
  matrixBytes(dtype: MatrixDtype, shape: MatrixShape): number {
    return callNative(() => native.matrixBytes(this.handle, nativeShape(dtype, shape)))
  }

  panelBytes(numRows: number, numExperts: number, features: number): number {
    return callNative(() => native.panelBytes(this.handle, numRows, numExperts, features))
  }

  /** Room for packed weights, zero until loaded. */
  emptyMatrix(dtype: MatrixDtype, shape: MatrixShape): Matrix {
    const bytes = this.matrixBytes(dtype, shape)
    const buffer = callNative(() => native.allocate(this.handle, bytes))
    return new Matrix(this, dtype, shape, { buffer, bytes })
  }

  /**
   * Packs f32 weights [outFeatures, inFeatures] or [count, outFeatures, inFeatures]. A GPU holds bf16, which is its
   * default; that of the CPU is f32.
   */
  async matrix(
    from: HostTensor,
    dtype: MatrixDtype = this.panelDtype ? 'bf16' : 'f32',
    options: { layout?: MatrixLayout } = {},
  ): Promise<Matrix> {
    const [inFeatures = 0, outFeatures = 0, count = 1] = [...from.shape].reverse()
    if (!(from.data instanceof Float32Array) || from.shape.length < 2 || from.shape.length > 3) {
      throw new OpenMoeError(
        'ERR_OPENMOE_INVALID_ARG',
        `matrix: got ${from.dtype} [${from.shape.join(', ')}], expected f32 [out_features, in_features] or ` +
          '[count, out_features, in_features]',
      )
    }
    const data = from.data
    const matrix = this.emptyMatrix(dtype, { count, outFeatures, inFeatures, ...options })
    await callNative(() =>
      native.packMatrix(this.handle, data, { ...target(matrix), index: 0, rowOffset: 0 }),
    )
    return matrix
  }

  /** Streams views of files to where they belong, in any order. No number may be written twice. */
  load(parts: readonly LoadPart[]): Promise<void> {
    return callNative(() => native.load(this.handle, parts.map(nativePart)))
  }

  /** Streams a [rows, cols] view of a file into rows `rowOffset`.. of matrix `index`. */
  loadMatrix(source: NativeMatrixSource, matrix: Matrix, index: number, rowOffset: number): Promise<void> {
    return this.load([{ source, matrix, index, rowOffset }])
  }

  /** The bytes of packed weights, as they are kept: whole panels of 32 output features. */
  async readMatrix(matrix: Matrix, offset: number, bytes: number): Promise<Uint8Array> {
    const data = new Uint8Array(bytes)
    await callNative(() => native.read(this.handle, matrix.buffer, offset, data))
    return data
  }

  /** Streams a [rows, cols] view of a file into a plain tensor. */
  loadRows(source: NativeMatrixSource, to: Tensor): Promise<void> {
    return this.load([{ source, rows: to }])
  }

  /** Gives memory back now; runs in flight keep what they use. May be called twice. */
  free(tensor: Tensor | Matrix): void {
    if (!this.closing && this.nativeHandle) native.freeBuffer(this.nativeHandle, persistent(tensor))
  }

  /** Stops the run in progress, rejects what waits, frees the memory. May be called twice and at any moment. */
  dispose(): Promise<void> {
    const closing = this.closing ?? native.closeDevice(this.handle)
    this.closing = closing
    return closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose()
  }
}

/**
 * Opens a device: 'auto' (a GPU when one can be used, else the CPU), 'cpu', 'cuda' or 'cuda:N'.
 * @throws OpenMoeError ERR_OPENMOE_DEVICE_UNAVAILABLE when the device or instruction set is not there
 */
export async function openDevice(name: string = 'auto', options: DeviceOptions = {}): Promise<Device> {
  const backend = await openBackend(name, options)
  return new Device(backend.name, backend.handle)
}

function nativeShape(dtype: MatrixDtype, shape: MatrixShape): NativeMatrixShape {
  const { count, outFeatures, inFeatures, layout = 'rows' } = shape
  return { dtype: dtypeIndex(dtype), layout: MATRIX_LAYOUTS.indexOf(layout), count, outFeatures, inFeatures }
}

const target = (matrix: Matrix): NativeMatrixShape & { buffer: NativeBuffer } => ({
  ...nativeShape(matrix.dtype, matrix),
  buffer: matrix.buffer,
})

function nativePart(part: LoadPart): NativeLoadPart {
  const { source } = part
  if ('matrix' in part) {
    const { matrix, index, rowOffset } = part
    return { source, matrix: { ...target(matrix), index, rowOffset } }
  }
  const { rows } = part
  return { source, rows: { buffer: persistent(rows), offset: rows.offset, dtype: dtypeIndex(rows.dtype) } }
}

function persistent(tensor: Tensor | Matrix): NativeBuffer {
  if (!tensor.buffer) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      'Only persistent tensors can be read or written; return it from run().',
    )
  }
  return tensor.buffer
}
