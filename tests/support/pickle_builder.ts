import { buildZip, type ZipOptions } from './zip_builder.ts'

/** Opcodes of pickle protocol 2, one function each, so that a test spells the pickle it wants. */
export const op = {
  proto: (version = 2) => Buffer.from([0x80, version]),
  stop: Buffer.from('.'),
  mark: Buffer.from('('),
  none: Buffer.from('N'),
  true: Buffer.from([0x88]),
  false: Buffer.from([0x89]),
  emptyTuple: Buffer.from(')'),
  emptyDict: Buffer.from('}'),
  emptyList: Buffer.from(']'),
  tuple: Buffer.from('t'),
  tuple1: Buffer.from([0x85]),
  tuple2: Buffer.from([0x86]),
  tuple3: Buffer.from([0x87]),
  setItem: Buffer.from('s'),
  setItems: Buffer.from('u'),
  append: Buffer.from('a'),
  reduce: Buffer.from('R'),
  build: Buffer.from('b'),
  persId: Buffer.from('Q'),
  stackGlobal: Buffer.from([0x93]),
  memoize: Buffer.from([0x94]),
  global: (module: string, name: string) => Buffer.from(`c${module}\n${name}\n`),
  put: (slot: number) => Buffer.concat([Buffer.from('r'), uint32(slot)]),
  get: (slot: number) => Buffer.concat([Buffer.from('j'), uint32(slot)]),
  text: (value: string) =>
    Buffer.concat([Buffer.from('X'), uint32(Buffer.byteLength(value)), Buffer.from(value)]),
  int: (value: number | bigint) => {
    if (typeof value === 'number' && value >= 0 && value < 256) return Buffer.from([0x4b, value])
    const bytes = Buffer.alloc(8)
    bytes.writeBigInt64LE(BigInt(value))
    return Buffer.concat([Buffer.from([0x8a, 8]), bytes])
  },
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

export interface TensorSpec {
  name: string
  type?: string // storage type
  key?: string
  elements: number
  offset?: number | bigint
  shape: (number | bigint)[]
  strides: (number | bigint)[]
  parameter?: boolean
}

export function storage({
  type = 'FloatStorage',
  key = '0',
  elements,
}: Pick<TensorSpec, 'type' | 'key' | 'elements'>): Buffer {
  const id = [
    op.mark,
    op.text('storage'),
    op.global('torch', type),
    op.text(key),
    op.text('cpu'),
    op.int(elements),
  ]
  return Buffer.concat([...id, op.tuple, op.persId])
}

export function tensor(spec: TensorSpec): Buffer {
  const ints = (values: (number | bigint)[]) => [op.mark, ...values.map((value) => op.int(value)), op.tuple]
  const rebuilt = Buffer.concat([
    op.global('torch._utils', '_rebuild_tensor_v2'),
    op.mark,
    storage(spec),
    op.int(spec.offset ?? 0),
    ...ints(spec.shape),
    ...ints(spec.strides),
    op.false,
    orderedDict(),
    op.tuple,
    op.reduce,
  ])
  if (!spec.parameter) return rebuilt
  const call = [op.global('torch._utils', '_rebuild_parameter'), rebuilt, op.true, orderedDict()]
  return Buffer.concat([...call, op.tuple3, op.reduce])
}

export function orderedDict(): Buffer {
  return Buffer.concat([op.global('collections', 'OrderedDict'), op.emptyTuple, op.reduce])
}

/** A whole pickle: a dict of these values. */
export function dictPickle(values: [name: string, value: Buffer][], start: Buffer = op.emptyDict): Buffer {
  const items = values.flatMap(([name, value]) => [op.text(name), value])
  return Buffer.concat([op.proto(), start, op.mark, ...items, op.setItems, op.stop])
}

/** A .bin file with this pickle and these storages. */
export function torchFile(
  pickle: Buffer,
  storages: Record<string, Buffer> = {},
  options: ZipOptions = {},
): Buffer {
  return buildZip(
    [
      { name: 'archive/data.pkl', data: pickle },
      { name: 'archive/byteorder', data: Buffer.from('little') },
      ...Object.entries(storages).map(([key, data]) => ({ name: `archive/data/${key}`, data })),
      { name: 'archive/version', data: Buffer.from('3\n') },
    ],
    options,
  )
}
