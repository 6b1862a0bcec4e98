import { OPCODE_NAMES } from './pickle_opcodes.ts'
import { ALLOWED_GLOBALS, describeValue, isKind } from './pickle_values.ts'
import type {
  PickleDict,
  PickleGlobal,
  PickleStorage,
  PickleTensor,
  PickleTuple,
  PickleValue,
} from './pickle_values.ts'
import { PickleStack, type PickleFail } from './pickle_stack.ts'
import { MAX_RANK, MAX_TENSORS, quoteName } from './tensor_index.ts'

/**
 * Reads a pickle that holds a plain state dict: name -> tensor. A pickle is a program; this machine knows only the
 * opcodes and the six names such a dict needs, builds descriptions of tensors, and refuses everything else by name. It
 * calls nothing, looks nothing up, and walks no value it built, so shared or self-containing values cost nothing.
 */
export function readStateDict(bytes: Buffer, fail: PickleFail): Map<string, PickleTensor> {
  const root = new PickleMachine(bytes, fail).run()
  if (!isKind(root, 'dict')) return fail(`it holds ${describeValue(root)}, expected a dict of tensors.`)
  const tensors = new Map<string, PickleTensor>()
  for (const [name, value] of root.items) {
    if (typeof name !== 'string') return fail(`it has the key ${name}, expected the name of a tensor.`)
    if (name === '__proto__') return fail('a tensor is named "__proto__", which is refused.')
    if (!isKind(value, 'tensor')) {
      const advice = 'Save the state dict alone: torch.save(model.state_dict(), path).'
      return fail(`${quoteName(name)} is ${describeValue(value)}, expected a tensor. ${advice}`)
    }
    tensors.set(name, value)
  }
  return tensors
}

class PickleMachine extends PickleStack {
  /** The opcodes it runs; `pickle_opcodes.ts` has their names. */
  private static readonly steps = new Map<number, (m: PickleMachine) => void>([
    [0x80, (m) => m.protocol()],
    [0x95, (m) => m.frame()],
    [0x28, (m) => m.mark()],
    [0x63, (m) => m.global(m.line(), m.line())],
    [0x93, (m) => m.stackGlobal()],
    [0x4e, (m) => m.push(null)],
    [0x88, (m) => m.push(true)],
    [0x89, (m) => m.push(false)],
    [0x4a, (m) => m.push(m.take(4).readInt32LE())],
    [0x4b, (m) => m.push(m.byte())],
    [0x4d, (m) => m.push(m.take(2).readUInt16LE())],
    [0x8a, (m) => m.push(m.long())],
    [0x58, (m) => m.push(m.text(m.take(4).readUInt32LE()))],
    [0x8c, (m) => m.push(m.text(m.byte()))],
    [0x29, (m) => m.push({ kind: 'tuple', items: [] })],
    [0x74, (m) => m.push({ kind: 'tuple', items: m.popMark() })],
    [0x85, (m) => m.push({ kind: 'tuple', items: m.popMany(1) })],
    [0x86, (m) => m.push({ kind: 'tuple', items: m.popMany(2) })],
    [0x87, (m) => m.push({ kind: 'tuple', items: m.popMany(3) })],
    [0x5d, (m) => m.push({ kind: 'list', items: [] })],
    [0x61, (m) => m.append(m.popMany(1))],
    [0x65, (m) => m.append(m.popMark())],
    [0x7d, (m) => m.push({ kind: 'dict', items: new Map(), ordered: false })],
    [0x73, (m) => m.setItems(m.popMany(2))],
    [0x75, (m) => m.setItems(m.popMark())],
    [0x71, (m) => m.remember(m.byte())],
    [0x72, (m) => m.remember(m.take(4).readUInt32LE())],
    [0x94, (m) => m.remember(m.memo.size)],
    [0x68, (m) => m.recall(m.byte())],
    [0x6a, (m) => m.recall(m.take(4).readUInt32LE())],
    [0x51, (m) => m.push(m.storage(m.pop()))],
    [0x52, (m) => m.reduce()],
    [0x62, (m) => m.build()],
  ])

  run(): PickleValue {
    if (this.bytes[0] !== 0x80)
      this.fail('it does not start with PROTO, so it is no pickle of protocol 2 to 4')
    for (;;) {
      const opcode = this.byte()
      if (opcode === 0x2e) break
      const step = PickleMachine.steps.get(opcode)
      if (step) step(this)
      else this.refuse(opcode)
    }
    if (this.position !== this.bytes.length) this.fail('bytes follow its STOP')
    if (this.marks.length > 0 || this.stack.length !== 1) this.fail('it stops with an unfinished value')
    return this.stack[0]!
  }

  private refuse(opcode: number): never {
    const name = OPCODE_NAMES.get(opcode) ?? `0x${opcode.toString(16)}`
    return this.fail(
      `opcode ${name} is refused: a plain state dict does not use it, and unpickling it could run code`,
    )
  }

  private protocol(): void {
    const version = this.byte()
    if (this.position !== 2) this.fail('PROTO appears a second time')
    if (version < 2 || version > 4) this.fail(`it uses protocol ${version}, expected 2 to 4`)
  }

  private frame(): void {
    const length = this.take(8).readBigUInt64LE()
    if (length > BigInt(this.bytes.length - this.position)) this.fail('a FRAME is longer than the pickle')
  }

  private global(module: string, name: string): void {
    const allowed = ALLOWED_GLOBALS.get(`${module} ${name}`)
    if (allowed) return this.push({ kind: 'global', name: allowed })
    const storage = module === 'torch' && name.endsWith('Storage')
    const why = storage ? 'weights must be float32, float16 or bfloat16' : 'unpickling it could run code'
    this.fail(`the name ${quoteName(`${module}.${name}`)} is refused: ${why}`)
  }

  private stackGlobal(): void {
    const [module, name] = this.popMany(2)
    if (typeof module !== 'string' || typeof name !== 'string')
      this.fail('STACK_GLOBAL on something that is no name')
    else this.global(module, name)
  }

  private append(items: PickleValue[]): void {
    const list = this.stack.at(-1)
    if (!isKind(list, 'list')) return this.fail(`APPEND to ${describeValue(list)}`)
    for (const item of items) list.items.push(item)
  }

  private setItems(pairs: PickleValue[]): void {
    const dict = this.stack.at(-1)
    if (!isKind(dict, 'dict')) return this.fail(`SETITEMS on ${describeValue(dict)}`)
    if (pairs.length % 2 !== 0) this.fail('SETITEMS with a key without a value')
    for (let i = 0; i < pairs.length; i += 2) {
      const key = pairs[i]!
      if (typeof key !== 'string' && typeof key !== 'number')
        return this.fail(`a dict key is ${describeValue(key)}`)
      if (dict.items.has(key)) this.fail(`the key ${quoteName(String(key))} is set twice`)
      dict.items.set(key, pairs[i + 1]!)
    }
    if (dict.items.size > MAX_TENSORS) this.fail(`a dict has more than ${MAX_TENSORS} entries`)
  }

  /** ("storage", torch.<Type>Storage, key, location, number of elements) */
  private storage(id: PickleValue): PickleStorage {
    const expected = 'BINPERSID expects ("storage", type, key, location, elements)'
    if (!isKind(id, 'tuple') || id.items.length !== 5)
      return this.fail(`${expected}, found ${describeValue(id)}`)
    const [word, type, key, location, elements] = id.items
    if (word !== 'storage' || !isKind(type, 'global')) return this.fail(`${expected}, found another kind`)
    const dtype = type.name
    if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16')
      return this.fail(`${expected}, found no storage type`)
    if (typeof key !== 'string' || typeof location !== 'string')
      return this.fail(`${expected}, found other types`)
    if (!isCount(elements)) return this.fail(`storage ${quoteName(key)} has a wrong number of elements`)
    return { kind: 'storage', dtype, key, elements }
  }

  private reduce(): void {
    const [callee, args] = this.popMany(2)
    if (!isKind(callee, 'global') || !isKind(args, 'tuple')) {
      return this.fail(`REDUCE calls ${describeValue(callee)} with ${describeValue(args)}`)
    }
    this.push(this.call(callee, args))
  }

  private call(callee: PickleGlobal, args: PickleTuple): PickleDict | PickleTensor {
    if (callee.name === 'OrderedDict') {
      if (args.items.length > 0) this.fail('OrderedDict is called with arguments')
      return { kind: 'dict', items: new Map(), ordered: true }
    }
    if (callee.name === 'rebuild_tensor') return this.tensor(args.items)
    if (callee.name === 'rebuild_parameter') {
      const [data, , hooks] = args.items
      if (args.items.length !== 3 || !isKind(data, 'tensor'))
        return this.fail('_rebuild_parameter is called without a tensor')
      this.expectNoHooks(hooks)
      return data
    }
    return this.fail(`REDUCE calls ${describeValue(callee)}`)
  }

  /** _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]) */
  private tensor(args: PickleValue[]): PickleTensor {
    const [storage, offset, size, stride, , hooks, metadata] = args
    if (args.length < 6 || args.length > 7)
      return this.fail(`_rebuild_tensor_v2 is called with ${args.length} arguments`)
    if (!isKind(storage, 'storage'))
      return this.fail(`_rebuild_tensor_v2 is called with ${describeValue(storage)}`)
    if (!isCount(offset)) return this.fail(`a tensor has ${describeValue(offset)} for an offset`)
    this.expectNoHooks(hooks)
    if (metadata !== undefined && metadata !== null && !isKind(metadata, 'dict'))
      this.fail('tensor metadata is no dict')
    const shape = this.counts(size, 'size')
    const strides = this.counts(stride, 'stride')
    if (shape.length !== strides.length) this.fail('a tensor has more sizes than strides, or fewer')
    return { kind: 'tensor', storage, offset, shape, strides }
  }

  private counts(value: PickleValue | undefined, what: string): number[] {
    if (!isKind(value, 'tuple')) return this.fail(`the ${what} of a tensor is ${describeValue(value)}`)
    if (value.items.length > MAX_RANK) this.fail(`a tensor has ${value.items.length} axes`)
    return value.items.map((item) =>
      isCount(item) ? item : this.fail(`the ${what} of a tensor has a wrong number`),
    )
  }

  private expectNoHooks(hooks: PickleValue | undefined): void {
    if (!isKind(hooks, 'dict') || hooks.items.size > 0) this.fail('a tensor has backward hooks')
  }

  /** A state dict carries module versions as `_metadata`; nothing else may be built onto anything. */
  private build(): void {
    const state = this.pop()
    const target = this.stack.at(-1)
    const harmless =
      isKind(target, 'dict') &&
      target.ordered &&
      isKind(state, 'dict') &&
      state.items.size === 1 &&
      isKind(state.items.get('_metadata'), 'dict')
    if (!harmless)
      this.fail(
        `BUILD of ${describeValue(state)} on ${describeValue(target)} is refused: only _metadata is known`,
      )
  }
}

function isCount(value: PickleValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}
