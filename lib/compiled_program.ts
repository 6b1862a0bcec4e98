// A recording made runnable: checked once by the native side, then run as often as wanted with new inputs.
import { OpenMoeError } from './errors.ts'
import { callNative, native, type NativeDevice, type NativeProgram } from './native.ts'
import type { Program } from './program.ts'
import { type HostTensor, newTypedArray, numElements, Tensor, type TypedArray } from './tensor.ts'

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
  private readonly device: { readonly handle: NativeDevice }
  private readonly program: Program
  private readonly handle: NativeProgram
  private readonly results: R
  private readonly labels: string[]

  constructor(device: { readonly handle: NativeDevice }, program: Program, results: R) {
    this.device = device
    this.program = program
    this.results = results
    for (const tensor of listOf(results)) program.keep(program.asRows(tensor))
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
    const fetch = (value: Tensor): HostTensor => {
      const tensor = program.asRows(value)
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

const listOf = (results: Results): readonly Tensor[] =>
  results instanceof Tensor ? [results] : Object.values(results)

function mapResults<R extends Results>(results: R, fetch: (tensor: Tensor) => HostTensor): HostResults<R> {
  if (results instanceof Tensor) return fetch(results) as HostResults<R>
  if (Array.isArray(results)) return results.map(fetch) as HostResults<R>
  return Object.fromEntries(
    Object.entries(results as Record<string, Tensor>).map(([name, tensor]) => [name, fetch(tensor)]),
  ) as HostResults<R>
}
