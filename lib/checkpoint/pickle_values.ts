import type { TensorDtype } from './tensor_index.ts'

/** The only things a pickle can describe here. None of them does anything. */
export type PickleValue =
  | null
  | boolean
  | number
  | string
  | PickleTuple
  | PickleList
  | PickleDict
  | PickleGlobal
  | PickleStorage
  | PickleTensor

export interface PickleTuple {
  kind: 'tuple'
  items: PickleValue[]
}
export interface PickleList {
  kind: 'list'
  items: PickleValue[]
}
export interface PickleDict {
  kind: 'dict'
  items: Map<string | number, PickleValue>
  ordered: boolean // a collections.OrderedDict: the only object that may carry `_metadata`
}
export interface PickleGlobal {
  kind: 'global'
  name: GlobalName
}
export interface PickleStorage {
  kind: 'storage'
  dtype: TensorDtype
  key: string
  elements: number
}
export interface PickleTensor {
  kind: 'tensor'
  storage: PickleStorage
  offset: number // in elements, as the strides
  shape: number[]
  strides: number[]
}

export type GlobalName = 'rebuild_tensor' | 'rebuild_parameter' | 'OrderedDict' | 'F32' | 'F16' | 'BF16'

/** Module and name of what a plain state dict uses. A pickle that asks for anything else could run code in a real unpickler. */
export const ALLOWED_GLOBALS: ReadonlyMap<string, GlobalName> = new Map([
  ['torch._utils _rebuild_tensor_v2', 'rebuild_tensor'],
  ['torch._utils _rebuild_parameter', 'rebuild_parameter'],
  ['collections OrderedDict', 'OrderedDict'],
  ['torch FloatStorage', 'F32'],
  ['torch HalfStorage', 'F16'],
  ['torch BFloat16Storage', 'BF16'],
])

export function describeValue(value: PickleValue | undefined): string {
  if (value === undefined) return 'nothing'
  if (value === null) return 'None'
  if (typeof value !== 'object') return typeof value
  return value.kind === 'global' ? `the name ${value.name}` : `a ${value.kind}`
}

export function isKind<K extends 'tuple' | 'list' | 'dict' | 'global' | 'storage' | 'tensor'>(
  value: PickleValue | undefined,
  kind: K,
): value is Extract<PickleValue, { kind: K }> {
  return typeof value === 'object' && value !== null && value.kind === kind
}
