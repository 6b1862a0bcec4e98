// Recording. A Program is the flat list of op calls a layer writes down; a device checks it once and runs it often.
import { OpenMoeError } from './errors.ts'
import { native, type NativeBuffer, type OpField } from './native.ts'
import { type DType, dtypeIndex, type HostTensor, Matrix, Tensor } from './tensor.ts'

/** What ops accept as an operand: a tensor of this program, a persistent one, or a host tensor copied in. */
export type TensorLike = Tensor | HostTensor

interface Op {
  index: number
  fields: { camelName: string; field: OpField }[]
}

let opTable: Map<string, Op> | undefined

function findOp(name: string): Op {
  opTable ??= new Map(
    native
      .ops()
      .map((op, index) => [
        op.name,
        { index, fields: op.fields.map((field) => ({ camelName: camelCase(field.name), field })) },
      ]),
  )
  const op = opTable.get(name)
  if (!op) throw new OpenMoeError('ERR_OPENMOE_INTERNAL', `no op is named '${name}'`)
  return op
}

const camelCase = (name: string): string =>
  name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())

export class Program {
  /** Names of the taps this recording should keep: exact, or with `*` as in `moe.*`. */
  private readonly wantedTaps: RegExp[]
  private readonly tensors: (NativeBuffer | number | boolean | null)[] = []
  private readonly ids = new Map<Tensor | Matrix, number>()
  private readonly code: number[] = []
  private readonly labels: string[] = []
  private readonly scopes: string[] = []
  private readonly device: object
  readonly initialData = new Map<Tensor, HostTensor['data']>()
  readonly inputs = new Map<string, Tensor>()
  readonly taps = new Map<string, Tensor>()

  /** `device` is the owner of the persistent tensors that may be used. */
  constructor(device: object, taps: readonly string[] = []) {
    this.device = device
    this.wantedTaps = taps.map((tap) => new RegExp(`^${tap.split('*').map(escapeRegExp).join('.*')}$`))
  }

  /** A tensor of this program, for an op to write. */
  alloc(dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(this, dtype, shape)
  }

  /** A tensor written from the host before every run, by name. */
  input(name: string, dtype: DType, shape: readonly number[]): Tensor {
    const tensor = this.alloc(dtype, shape)
    this.inputs.set(name, tensor)
    this.keep(tensor)
    return tensor
  }

  /** Makes an operand of this program from anything an op accepts. */
  use(value: TensorLike): Tensor {
    if (value instanceof Tensor) return value
    const tensor = this.alloc(value.dtype, value.shape)
    this.initialData.set(tensor, value.data)
    this.keep(tensor)
    return tensor
  }

  /** Keeps a tensor's bytes for the whole run, so that it can be read at its end. */
  keep(tensor: Tensor): void {
    this.tensors[5 * this.idOf(tensor) + 4] = true
  }

  /** Offers a value to whoever observes the run; costs nothing unless it was asked for. */
  tap(name: string, tensor: Tensor): void {
    if (!this.wantedTaps.some((wanted) => wanted.test(name))) return
    this.taps.set(name, tensor)
    this.keep(tensor)
  }

  /** Labels the records made inside: `p.scope('layers.5', () => ...)`. */
  scope<T>(label: string, body: () => T): T {
    this.scopes.push(label)
    try {
      return body()
    } finally {
      this.scopes.pop()
    }
  }

  /** Writes down one op call; names are the contract's (native/ops/<op>.h) in camelCase. */
  record(
    name: string,
    tensors: Record<string, Tensor | Matrix | undefined>,
    numbers: Record<string, number | boolean> = {},
  ): void {
    const op = findOp(name)
    this.code.push(op.index, this.labels.length)
    this.labels.push([...this.scopes, name].join('.'))
    for (const { camelName, field } of op.fields) {
      if (field.kind === 'integer' || field.kind === 'number') this.code.push(Number(numbers[camelName]))
      else this.code.push(tensors[camelName] ? this.idOf(tensors[camelName]) : -1)
    }
  }

  /** The index of a tensor in the native program. */
  idOf(tensor: Tensor | Matrix): number {
    let id = this.ids.get(tensor)
    if (id === undefined) {
      if (tensor.owner !== this && (tensor.owner !== this.device || !tensor.buffer)) {
        throw new OpenMoeError(
          'ERR_OPENMOE_INVALID_ARG',
          `${this.scopes.join('.')}: a tensor of another program or device was used. Pass its host data instead.`,
        )
      }
      id = this.ids.size
      this.ids.set(tensor, id)
      const offset = tensor instanceof Tensor ? tensor.offset : 0
      this.tensors.push(tensor.buffer, offset, tensor.bytes, dtypeIndex(tensor.dtype), false)
    }
    return id
  }

  /** The arguments of native.program. */
  encode(): { tensors: (NativeBuffer | number | boolean | null)[]; code: Float64Array; labels: string[] } {
    return { tensors: this.tensors, code: Float64Array.from(this.code), labels: this.labels }
  }
}

const escapeRegExp = (text: string): string => text.replace(/[.+?^${}()|[\]\\]/g, '\\$&')
