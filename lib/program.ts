// Recording. A Program is the flat list of op calls a layer writes down; a device checks it once and runs it often.
import { OpenMoeError } from './errors.ts'
import { native, type NativeTensorList, type OpField, TENSOR_FIELDS, TENSOR_USE } from './native.ts'
import {
  type DType,
  dtypeIndex,
  type HostTensor,
  Matrix,
  newTypedArray,
  Tensor,
  tensor as hostTensor,
} from './tensor.ts'

/** What ops accept as an operand: a tensor of this program, a persistent one, or a host tensor copied in. */
export type TensorLike = Tensor | HostTensor

/** What a recording has to know of the device it is for. */
export interface RecordingDevice {
  /** What panels hold; null where a panel is nothing but f32 rows. */
  readonly panelDtype: DType | null
  panelBytes(numRows: number, numExperts: number, features: number): number
}

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
  private readonly tensors: NativeTensorList = []
  private readonly ids = new Map<Tensor | Matrix, number>()
  private readonly code: number[] = []
  private readonly labels: string[] = []
  private readonly scopes: string[] = []
  private readonly device: RecordingDevice
  private readonly plainRows = new Map<Tensor, Tensor>()
  readonly inputs = new Map<string, Tensor>()
  readonly taps = new Map<string, Tensor>()

  /** `device` is the owner of the persistent tensors that may be used. */
  constructor(device: RecordingDevice, taps: readonly string[] = []) {
    this.device = device
    this.wantedTaps = taps.map((tap) => new RegExp(`^${tap.split('*').map(escapeRegExp).join('.*')}$`))
  }

  /** A tensor of this program, for an op to write. */
  alloc(dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(this, dtype, shape)
  }

  /** A tensor of this program whose rows are grouped by expert, in the device's own layout. */
  allocPanel(expertOffsets: Tensor, shape: readonly [number, number]): Tensor {
    const { panelDtype } = this.device
    if (!panelDtype) return this.alloc('f32', shape)
    const bytes = this.device.panelBytes(shape[0], numExpertsOf(expertOffsets), shape[1])
    return new Tensor(this, panelDtype, shape, undefined, { expertOffsets, bytes })
  }

  /** Plain f32 rows as a panel: costs a moe_permute with the identity as its map, unless panels are rows here. */
  asPanel(rows: TensorLike, expertOffsets: Tensor): Tensor {
    const x = this.use(rows)
    if (!this.device.panelDtype || x.panel) return x
    const [numTokens = 0, hiddenSize = 0] = x.shape
    const permuted = this.allocPanel(expertOffsets, [numTokens, hiddenSize])
    const tensors = { x, rowIdMap: this.use(identityMap(numTokens)), expertOffsets, permuted }
    const numExperts = numExpertsOf(expertOffsets)
    this.record('moe_permute', tensors, { numTokens, topK: 1, numExperts, hiddenSize })
    return permuted
  }

  /** The other way round: what can be read at the end of a run. Rows of no expert are zero. */
  asRows(tensor: Tensor): Tensor {
    if (!tensor.panel) return tensor
    let out = this.plainRows.get(tensor)
    if (out) return out
    const [numTokens = 0, hiddenSize = 0] = tensor.shape
    out = this.alloc('f32', [numTokens, hiddenSize])
    this.plainRows.set(tensor, out)
    const { expertOffsets } = tensor.panel
    const ones = hostTensor(new Float32Array(numTokens).fill(1), [numTokens, 1])
    const rowIdMap = this.use(identityMap(numTokens))
    this.record(
      'moe_unpermute',
      { permuted: tensor, rowIdMap, expertWeights: this.use(ones), expertOffsets, out },
      { numPermuted: numTokens, numTokens, topK: 1, numExperts: numExpertsOf(expertOffsets), hiddenSize },
    )
    return out
  }

  /** A tensor written from the host before every run, by name. */
  input(name: string, dtype: DType, shape: readonly number[]): Tensor {
    const tensor = this.alloc(dtype, shape)
    this.inputs.set(name, tensor)
    this.tensors[TENSOR_FIELDS * this.idOf(tensor) + 4] = TENSOR_USE.input
    return tensor
  }

  /** Makes an operand of this program from anything an op accepts. */
  use(value: TensorLike): Tensor {
    if (value instanceof Tensor) return value
    const tensor = this.alloc(value.dtype, value.shape)
    this.tensors[TENSOR_FIELDS * this.idOf(tensor) + 5] = value.data
    return tensor
  }

  /** Keeps a tensor's bytes for the whole run and reads them at its end. */
  addResult(tensor: Tensor): void {
    const use = TENSOR_FIELDS * this.idOf(tensor) + 4
    this.tensors[use] = (this.tensors[use] as number) | TENSOR_USE.result
  }

  /** Whether somebody observes the tap of that name. */
  wants(tap: string): boolean {
    return this.wantedTaps.some((wanted) => wanted.test(tap))
  }

  /** Offers a value to whoever observes the run; costs nothing, and is not even made, unless it was asked for. */
  tap(name: string, value: Tensor | (() => Tensor)): void {
    if (!this.wants(name)) return
    const tensor = this.asRows(value instanceof Tensor ? value : value())
    this.taps.set(name, tensor)
    this.addResult(tensor)
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
      this.tensors.push(tensor.buffer, offset, tensor.bytes, dtypeIndex(tensor.dtype), 0, null)
    }
    return id
  }

  /** The arguments of native.program. */
  encode(): { tensors: NativeTensorList; code: Float64Array; labels: string[] } {
    return { tensors: this.tensors, code: Float64Array.from(this.code), labels: this.labels }
  }
}

const numExpertsOf = (expertOffsets: Tensor): number => (expertOffsets.shape[0] ?? 1) - 1

function identityMap(numRows: number): HostTensor {
  const map = newTypedArray('i32', numRows)
  for (let i = 0; i < numRows; i++) map[i] = i
  return hostTensor(map, [numRows, 1])
}

const escapeRegExp = (text: string): string => text.replace(/[.+?^${}()|[\]\\]/g, '\\$&')
