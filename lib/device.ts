// A device as TypeScript sees it: memory, and programs that run on its thread. The event loop never computes.
import { OpenMoeError } from './errors.ts'
import {
  callNative,
  native,
  type NativeBuffer,
  type NativeDevice,
  type NativeMatrixSource,
  type NativeProgram,
} from './native.ts'
import { Program } from './program.ts'
import {
  bytesPerElement,
  type DType,
  dtypeIndex,
  type HostTensor,
  Matrix,
  newTypedArray,
  numElements,
  Tensor,
  type TypedArray,
} from './tensor.ts'

export interface DeviceOptions {
  /** Compute threads; default: the physical cores this process may use. */
  threads?: number
  /** Instruction set of the CPU backend; default: OPENMOE_ISA, else the best this CPU has. */
  isa?: 'portable' | 'avx2' | 'avx512' | 'avx512_bf16'
}

export interface RunOptions {
  /** Names of tensors to copy out besides the result (`*` matches anything). */
  taps?: readonly string[]
  /** Reports microseconds per record in `RunResult.profile`. */
  profile?: boolean
}

/** What recording functions return: the tensors the caller wants back. */
export type Results = Tensor | readonly Tensor[] | Record<string, Tensor>
export type HostResults<R extends Results> = R extends Tensor
  ? HostTensor
  : { -readonly [K in keyof R]: HostTensor }

export interface RunResult<R extends Results> {
  values: HostResults<R>
  taps: Map<string, HostTensor>
  profile?: { label: string; microseconds: number }[]
}

/** A recorded program that can run again with new inputs. */
export class CompiledProgram<R extends Results> {
  private readonly device: Device
  private readonly program: Program
  private readonly handle: NativeProgram
  private readonly results: R
  private readonly labels: string[]

  constructor(device: Device, program: Program, results: R) {
    this.device = device
    this.program = program
    this.results = results
    for (const tensor of listOf(results)) program.keep(tensor)
    const { tensors, code, labels } = program.encode()
    this.labels = labels
    this.handle = callNative(() => native.program(device.handle, tensors, code, labels))
  }

  /** Bytes of working memory one run needs. */
  get arenaBytes(): number {
    return native.programBytes(this.handle)
  }

  /** Lets go of the weights it uses. Runs in flight finish. */
  dispose(): void {
    native.freeProgram(this.handle)
  }

  async run(
    inputs: Record<string, TypedArray> = {},
    options: { profile?: boolean } = {},
  ): Promise<RunResult<R>> {
    const { program } = this
    const writes: (number | TypedArray)[] = []
    for (const [tensor, data] of program.initialData) writes.push(program.idOf(tensor), data)
    for (const [name, tensor] of program.inputs) {
      const data = inputs[name]
      if (!data) throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `run: the input '${name}' is missing`)
      writes.push(program.idOf(tensor), data)
    }
    const reads: (number | TypedArray)[] = []
    const fetch = (tensor: Tensor): HostTensor => {
      const data = newTypedArray(tensor.dtype, numElements(tensor.shape))
      reads.push(program.idOf(tensor), data)
      return { dtype: tensor.dtype, shape: tensor.shape, data }
    }
    const values = mapResults(this.results, fetch)
    const taps = new Map([...program.taps].map(([name, tensor]) => [name, fetch(tensor)]))
    const flags = (options.profile ? 1 : 0) | (process.env.OPENMOE_TRACE === '1' ? 2 : 0)
    const times = await callNative(() => native.run(this.device.handle, this.handle, writes, reads, flags))
    if (!times) return { values, taps }
    return {
      values,
      taps,
      profile: this.labels.map((label, i) => ({ label, microseconds: times[i] ?? 0 })),
    }
  }
}

export class Device {
  readonly name: string
  private nativeHandle: NativeDevice | null
  private closing: Promise<void> | null = null

  /** Use `openDevice()`. */
  constructor(name: string, handle: NativeDevice) {
    this.name = name
    this.nativeHandle = handle
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

  /** Bytes a packed matrix takes on this device. */
  matrixBytes(dtype: DType, shape: { count: number; outFeatures: number; inFeatures: number }): number {
    const { count, outFeatures, inFeatures } = shape
    return callNative(() =>
      native.matrixBytes(this.handle, dtypeIndex(dtype), count, outFeatures, inFeatures),
    )
  }

  /** Room for packed weights, zero until loaded. */
  emptyMatrix(dtype: DType, shape: { count: number; outFeatures: number; inFeatures: number }): Matrix {
    const bytes = this.matrixBytes(dtype, shape)
    const buffer = callNative(() => native.allocate(this.handle, bytes))
    return new Matrix(this, dtype, shape, { buffer, bytes })
  }

  /** Packs f32 weights [outFeatures, inFeatures] or [count, outFeatures, inFeatures]. */
  async matrix(from: HostTensor, dtype: 'f32' | 'bf16' = 'f32'): Promise<Matrix> {
    const [inFeatures = 0, outFeatures = 0, count = 1] = [...from.shape].reverse()
    if (!(from.data instanceof Float32Array) || from.shape.length < 2 || from.shape.length > 3) {
      throw new OpenMoeError(
        'ERR_OPENMOE_INVALID_ARG',
        `matrix: got ${from.dtype} [${from.shape.join(', ')}], expected f32 [out_features, in_features] or ` +
          '[count, out_features, in_features]',
      )
    }
    const data = from.data
    const matrix = this.emptyMatrix(dtype, { count, outFeatures, inFeatures })
    await callNative(() =>
      native.packMatrix(this.handle, data, { ...target(matrix), index: 0, rowOffset: 0 }),
    )
    return matrix
  }

  /** Streams a [rows, cols] view of a file into rows `rowOffset`.. of matrix `index`. */
  loadMatrix(source: NativeMatrixSource, matrix: Matrix, index: number, rowOffset: number): Promise<void> {
    return callNative(() => native.loadMatrix(this.handle, source, { ...target(matrix), index, rowOffset }))
  }

  /** Streams a [rows, cols] view of a file into a plain tensor. */
  loadRows(source: NativeMatrixSource, to: Tensor): Promise<void> {
    return callNative(() =>
      native.loadRows(this.handle, source, persistent(to), to.offset, dtypeIndex(to.dtype)),
    )
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
 * Opens a device. `'auto'` is a GPU when one can be used, else the CPU; this build has the CPU backend only.
 * @throws OpenMoeError ERR_OPENMOE_DEVICE_UNAVAILABLE when the device or instruction set is not there
 */
// Async, because opening a GPU will take time.
// eslint-disable-next-line @typescript-eslint/require-await
export async function openDevice(name: string = 'auto', options: DeviceOptions = {}): Promise<Device> {
  if (name !== 'auto' && name !== 'cpu') {
    const cuda = /^cuda(:\d+)?$/.test(name)
    throw new OpenMoeError(
      cuda ? 'ERR_OPENMOE_DEVICE_UNAVAILABLE' : 'ERR_OPENMOE_INVALID_ARG',
      cuda
        ? `${name}: this build has no CUDA backend. Pass { device: 'cpu' }, or 'auto'.`
        : `device: '${name}' is unknown. Use 'auto', 'cpu' or 'cuda'.`,
    )
  }
  const isa = options.isa ?? process.env.OPENMOE_ISA
  return new Device(
    'cpu',
    callNative(() => native.openCpu(options.threads ?? 0, isa)),
  )
}

export interface DeviceInfo {
  name: string
  /** e.g. the CPU's model name */
  description: string
  /** Instruction sets this CPU can run, worst first. */
  isas: string[]
  defaultThreads: number
}

/** The devices this process can open. */
export function devices(): DeviceInfo[] {
  const cpu = callNative(() => native.cpuInfo())
  return [{ name: 'cpu', description: cpu.modelName, isas: cpu.isas, defaultThreads: cpu.defaultThreads }]
}

function target(matrix: Matrix): {
  buffer: NativeBuffer
  dtype: number
  count: number
  outFeatures: number
  inFeatures: number
} {
  const { buffer, count, outFeatures, inFeatures } = matrix
  return { buffer, dtype: dtypeIndex(matrix.dtype), count, outFeatures, inFeatures }
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

const listOf = (results: Results): readonly Tensor[] =>
  results instanceof Tensor ? [results] : Object.values(results)

function mapResults<R extends Results>(results: R, fetch: (tensor: Tensor) => HostTensor): HostResults<R> {
  if (results instanceof Tensor) return fetch(results) as HostResults<R>
  if (Array.isArray(results)) return results.map(fetch) as HostResults<R>
  return Object.fromEntries(
    Object.entries(results as Record<string, Tensor>).map(([name, tensor]) => [name, fetch(tensor)]),
  ) as HostResults<R>
}
