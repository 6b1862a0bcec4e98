// A recording made runnable: checked once by the native side, then run as often as wanted with new inputs.
import { OpenMoeError } from './errors.ts'
import {
  BLOCK_ALIGN,
  callNative,
  fromNative,
  native,
  type NativeDevice,
  type NativeProgram,
} from './native.ts'
import type { Program } from './program.ts'
import { type HostTensor, numElements, Tensor, type TypedArray, typedArrayOn } from './tensor.ts'

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
  private readonly handle: NativeProgram
  private readonly labels: string[]
  private readonly results: Results
  private readonly taps: readonly [string, Tensor][]
  // One block of bytes each way, so that a step of a model crosses to the native side with two arguments.
  private readonly resultBlock: Block
  private readonly inputBytes: ArrayBuffer
  private readonly inputs: Readonly<Record<string, TypedArray>>
  private areInputsKnown: boolean

  constructor(device: { readonly handle: NativeDevice }, program: Program, results: R) {
    this.device = device
    this.results = mapResults(results, (tensor) => program.asRows(tensor))
    this.taps = [...program.taps]
    const read = [...tensorsOf(this.results), ...program.taps.values()]
    for (const tensor of read) program.addResult(tensor)
    const inputBlock = new Block(program, program.inputs.values())
    this.resultBlock = new Block(program, read)
    this.inputBytes = new ArrayBuffer(inputBlock.bytes)
    this.inputs = Object.fromEntries(
      [...program.inputs].map(([name, tensor]) => [name, inputBlock.view(tensor, this.inputBytes)]),
    )
    this.areInputsKnown = program.inputs.size === 0
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

  /** The inputs by name, to be written in place: what they hold when run() is called is what it runs with. */
  stage(): Readonly<Record<string, TypedArray>> {
    this.areInputsKnown = true
    return this.inputs
  }

  /** Runs with `inputs`; without them, with those of the last run or what was written into stage(). */
  async run(
    inputs?: Readonly<Record<string, TypedArray>>,
    options: { profile?: boolean } = {},
  ): Promise<RunResult<R>> {
    if (inputs || !this.areInputsKnown) this.setInputs(inputs ?? {})
    const flags = (options.profile ? 1 : 0) | (process.env.OPENMOE_TRACE === '1' ? 2 : 0)
    const results = new ArrayBuffer(this.resultBlock.bytes)
    let times: Float64Array | undefined
    try {
      times = await native.run(this.device.handle, this.handle, this.inputBytes, results, flags)
    } catch (error) {
      throw fromNative(error)
    }
    const fetch = (tensor: Tensor): HostTensor => ({
      dtype: tensor.dtype,
      shape: tensor.shape,
      data: this.resultBlock.view(tensor, results),
    })
    const taps = new Map<string, HostTensor>()
    for (const [name, tensor] of this.taps) taps.set(name, fetch(tensor))
    const result: RunResult<R> = { values: mapResults(this.results, fetch) as HostResults<R>, taps }
    if (times) {
      const spent = times
      result.profile = this.labels.map((label, i) => ({ label, microseconds: spent[i] ?? 0 }))
    }
    return result
  }

  private setInputs(given: Readonly<Record<string, TypedArray>>): void {
    for (const [name, staged] of Object.entries(this.inputs)) {
      const data = given[name]
      if (!data) throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `run: the input '${name}' is missing`)
      if (data.constructor !== staged.constructor || data.length !== staged.length) {
        throw new OpenMoeError(
          'ERR_OPENMOE_INVALID_ARG',
          `run: the input '${name}' is a ${data.constructor.name} of ${data.length}, ` +
            `expected a ${staged.constructor.name} of ${staged.length}`,
        )
      }
      staged.set(data)
    }
    this.areInputsKnown = true
  }
}

/** Where tensors lie in a block of bytes that crosses to the native side or back. */
class Block {
  readonly bytes: number
  private readonly offsets = new Map<Tensor, number>()

  constructor(program: Program, tensors: Iterable<Tensor>) {
    let bytes = 0
    for (const tensor of [...new Set(tensors)].sort((a, b) => program.idOf(a) - program.idOf(b))) {
      this.offsets.set(tensor, bytes)
      bytes += Math.ceil(tensor.bytes / BLOCK_ALIGN) * BLOCK_ALIGN
    }
    this.bytes = bytes
  }

  view(tensor: Tensor, bytes: ArrayBuffer): TypedArray {
    return typedArrayOn(tensor.dtype, bytes, this.offsets.get(tensor) ?? 0, numElements(tensor.shape))
  }
}

const tensorsOf = (results: Results): readonly Tensor[] =>
  results instanceof Tensor ? [results] : Object.values(results)

/** The same shape of results with something else in the place of each tensor. */
function mapResults<T>(results: Results, change: (tensor: Tensor) => T): T | T[] | Record<string, T> {
  if (results instanceof Tensor) return change(results)
  if (Array.isArray(results)) return (results as readonly Tensor[]).map(change)
  const changed: Record<string, T> = {}
  for (const [name, tensor] of Object.entries(results)) changed[name] = change(tensor)
  return changed
}
