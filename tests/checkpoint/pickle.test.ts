import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { readStateDict } from '../../lib/checkpoint/pickle.ts'
import { OpenMoeError } from '../../lib/errors.ts'
import { expectError } from '../support/expect_error.ts'
import { dictPickle, op, orderedDict, storage, tensor, type TensorSpec } from '../support/pickle_builder.ts'

const PICKLE = 'ERR_OPENMOE_PICKLE'
const spec: TensorSpec = { name: 'w', elements: 12, shape: [3, 4], strides: [4, 1] }
const read = (bytes: Buffer) =>
  readStateDict(bytes, (message) => {
    throw new OpenMoeError(PICKLE, message)
  })
const join = (...parts: (Buffer | string)[]) =>
  Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)))
/** A pickle with this in the place of a tensor. */
const holding = (...parts: (Buffer | string)[]) => dictPickle([['w', join(...parts)]])
const rebuild = op.global('torch._utils', '_rebuild_tensor_v2')
const os = op.global('os', 'system')

describe('pickle of a state dict', () => {
  it('describes tensors of a dict and of an OrderedDict with _metadata', () => {
    const described = { kind: 'tensor', offset: 0, shape: [3, 4], strides: [4, 1] }
    expect(read(dictPickle([['w', tensor(spec)]])).get('w')).toMatchObject(described)
    const metadata = join(op.emptyDict, op.text('_metadata'), orderedDict(), op.setItem, op.build, op.stop)
    const ordered = dictPickle([['w', tensor(spec)]], orderedDict()).subarray(0, -1)
    expect(read(join(ordered, metadata)).get('w')).toMatchObject(described)
  })

  it('reads protocol 4: frames, short strings, STACK_GLOBAL, MEMOIZE', () => {
    const short = (text: string) => join(Buffer.from([0x8c, text.length]), text)
    const storageId = join(
      op.mark,
      short('storage'),
      short('torch'),
      short('FloatStorage'),
      op.stackGlobal,
      op.memoize,
    )
    const body = join(
      op.emptyDict,
      op.memoize,
      op.mark,
      short('w'),
      short('torch._utils'),
      short('_rebuild_tensor_v2'),
      op.stackGlobal,
      op.memoize,
      op.mark,
      storageId,
      short('0'),
      short('cpu'),
      op.int(12),
      op.tuple,
      op.persId,
      op.int(0),
      op.int(3),
      op.int(4),
      op.tuple2,
      op.int(4),
      op.int(1),
      op.tuple2,
      op.false,
      short('collections'),
      short('OrderedDict'),
      op.stackGlobal,
      op.emptyTuple,
      op.reduce,
      op.tuple,
      op.reduce,
      'u.',
    )
    const frame = Buffer.alloc(8)
    frame.writeBigUInt64LE(BigInt(body.length))
    const tensors = read(join(op.proto(4), Buffer.from([0x95]), frame, body))
    expect(tensors.get('w')).toMatchObject({
      shape: [3, 4],
      storage: { dtype: 'F32', key: '0', elements: 12 },
    })
  })

  it('reads integers of every width', () => {
    const sizes: [Buffer, number][] = [
      [Buffer.from([0x4b, 255]), 255],
      [Buffer.from([0x4d, 0xff, 0xff]), 65_535],
      [Buffer.from([0x4a, 0xff, 0xff, 0xff, 0x7f]), 2 ** 31 - 1],
      [Buffer.from([0x8a, 5, 0, 0, 0, 0, 2]), 2 ** 33],
      [Buffer.from([0x8a, 0]), 0],
    ]
    for (const [bytes, value] of sizes) {
      const args = join(
        op.mark,
        storage(spec),
        op.int(0),
        bytes,
        op.tuple1,
        op.int(1),
        op.tuple1,
        op.false,
        orderedDict(),
        op.tuple,
      )
      expect(read(holding(rebuild, args, op.reduce)).get('w')?.shape).toEqual([value])
    }
  })

  const call = (name: Buffer) => join(name, op.text('id'), op.tuple1, op.reduce)
  const args = (over: Partial<Record<'storage' | 'offset' | 'size' | 'stride' | 'hooks' | 'rest', Buffer>>) =>
    join(
      rebuild,
      op.mark,
      over.storage ?? storage(spec),
      over.offset ?? op.int(0),
      over.size ?? join(op.int(3), op.tuple1),
      over.stride ?? join(op.int(1), op.tuple1),
      op.false,
      over.hooks ?? orderedDict(),
      over.rest ?? Buffer.alloc(0),
      op.tuple,
      op.reduce,
    )
  // prettier-ignore
  const attacks: [string, Buffer, RegExp][] = [
    ['os.system by GLOBAL', holding(call(os)), /the name "os\.system" is refused/],
    ['posix.system', holding(call(op.global('posix', 'system'))), /"posix\.system"/],
    ['builtins.eval', holding(call(op.global('builtins', 'eval'))), /"builtins\.eval"/],
    ['os.system by STACK_GLOBAL', holding(op.text('os'), op.text('system'), op.stackGlobal), /"os\.system"/],
    ['STACK_GLOBAL on numbers', holding(op.int(1), op.int(2), op.stackGlobal), /no name/],
    ['a dotted way to another name', holding(op.global('torch', '_utils._rebuild_tensor_v2')), /is refused/],
    ['a name one letter off', holding(op.global('torch._utils', '_rebuild_tensor_v3')), /is refused/],
    ['an unsupported storage type', holding(storage({ ...spec, type: 'LongStorage' })), /LongStorage" is refused: weights must be/],
    ['INST', holding(op.mark, 'ios\nsystem\n'), /opcode INST is refused/],
    ['OBJ', holding(op.mark, orderedDict(), 'o'), /opcode OBJ/],
    ['NEWOBJ', holding(op.global('collections', 'OrderedDict'), op.emptyTuple, '\x81'), /opcode NEWOBJ is/],
    ['NEWOBJ_EX', holding('\x92'), /NEWOBJ_EX/],
    ['EXT1', holding('\x82\x01'), /EXT1/],
    ['EXT2', holding('\x83\x01\x00'), /EXT2/],
    ['EXT4', holding('\x84\x01\x00\x00\x00'), /EXT4/],
    ['PERSID', holding('P0\n'), /PERSID/],
    ['POP', holding(op.none, '0'), /POP/],
    ['DUP', holding(op.none, '2'), /DUP/],
    ['BYTEARRAY8', holding('\x96'), /BYTEARRAY8/],
    ['a byte that is no opcode', holding('\xff'), /opcode 0xff/],
    ['REDUCE of a storage type', holding(op.global('torch', 'FloatStorage'), op.emptyTuple, op.reduce), /REDUCE calls/],
    ['REDUCE of a string', holding(op.text('os'), op.emptyTuple, op.reduce), /REDUCE calls string/],
    ['REDUCE without a tuple', holding(rebuild, op.none, op.reduce), /with None/],
    ['OrderedDict with arguments', holding(op.global('collections', 'OrderedDict'), op.none, op.tuple1, op.reduce), /with arguments/],
    ['_rebuild_parameter of no tensor', holding(op.global('torch._utils', '_rebuild_parameter'), op.none, op.none, op.none, op.tuple3, op.reduce), /without a tensor/],
    ['BUILD with another attribute', holding(orderedDict(), op.emptyDict, op.text('__class__'), op.emptyDict, op.setItem, op.build), /BUILD of a dict on a dict/],
    ['BUILD with _metadata and another attribute', holding(orderedDict(), op.emptyDict, op.text('_metadata'), op.emptyDict, op.setItem, op.text('__class__'), op.none, op.setItem, op.build), /BUILD/],
    ['BUILD with a hostile _metadata', holding(orderedDict(), op.emptyDict, op.text('_metadata'), op.none, op.setItem, op.build), /BUILD/],
    ['BUILD on a tensor', holding(tensor(spec), op.emptyDict, op.build), /BUILD of a dict on a tensor/],
    ['BUILD on a plain dict', holding(op.emptyDict, op.emptyDict, op.text('_metadata'), op.emptyDict, op.setItem, op.build), /BUILD/],
    ['BUILD with a tuple', holding(orderedDict(), op.emptyTuple, op.build), /BUILD of a tuple/],
    ['BUILD on nothing', join(op.proto(), op.none, op.build, op.stop), /BUILD of None on nothing/],
    ['a persistent id that is a string', holding(op.text('storage'), op.persId), /BINPERSID expects .* found string/],
    ['a persistent id that is too short', holding(op.text('storage'), op.tuple1, op.persId), /found a tuple/],
    ['a persistent id of another kind', holding(op.mark, op.text('module'), op.none, op.none, op.none, op.none, op.tuple, op.persId), /another kind/],
    ['a persistent id without a storage type', holding(op.mark, op.text('storage'), rebuild, op.text('0'), op.text('cpu'), op.int(1), op.tuple, op.persId), /no storage type/],
    ['a persistent id with a number for a key', holding(op.mark, op.text('storage'), op.global('torch', 'FloatStorage'), op.int(0), op.text('cpu'), op.int(1), op.tuple, op.persId), /other types/],
    ['a negative storage', holding(storage({ ...spec, elements: -1 })), /wrong number of elements/],
    ['a tensor without a storage', holding(args({ storage: op.none })), /called with None/],
    ['a negative offset', holding(args({ offset: op.int(-1) })), /for an offset/],
    ['a size that is a list', holding(args({ size: op.emptyList })), /the size of a tensor is a list/],
    ['a negative stride', holding(args({ stride: join(op.int(-1), op.tuple1) })), /stride of a tensor has a wrong number/],
    ['a boolean size', holding(args({ size: join(op.true, op.tuple1) })), /size of a tensor has a wrong number/],
    ['more sizes than strides', holding(args({ size: join(op.int(1), op.int(1), op.tuple2) })), /more sizes than strides/],
    ['backward hooks', holding(args({ hooks: join(op.emptyDict, op.text('h'), op.none, op.setItem) })), /hooks/],
    ['eight arguments', holding(args({ rest: join(op.none, op.none) })), /8 arguments/],
    ['metadata that is no dict', holding(args({ rest: op.text('m') })), /metadata/],
    ['an integer beyond 2^53', holding(Buffer.from([0x8a, 8, 255, 255, 255, 255, 255, 255, 255, 127])), /beyond 2\^53/],
    ['an integer of 200 bytes', holding(Buffer.from([0x8a, 200]), Buffer.alloc(200)), /integer of 200 bytes/],
    ['a string of 1 GiB', holding('X\x00\x00\x00\x40'), /1073741824 bytes long/],
    ['a string that is not UTF-8', holding('X\x01\x00\x00\x00\xff'), /not UTF-8/],
    ['a frame longer than the pickle', holding('\x95\xff\xff\xff\xff\xff\xff\xff\xff'), /FRAME/],
    ['a second PROTO', holding(op.proto()), /second time/],
    ['protocol 1', join(op.proto(1), op.emptyDict, op.stop), /protocol 1/],
    ['protocol 5', join(op.proto(5), op.emptyDict, op.stop), /protocol 5/],
    ['protocol 0', Buffer.from('(dp0\n.'), /does not start with PROTO/],
    ['an empty pickle', Buffer.alloc(0), /does not start with PROTO/],
    ['no STOP', dictPickle([]).subarray(0, -1), /middle of an opcode/],
    ['bytes after STOP', join(dictPickle([]), 'x'), /bytes follow/],
    ['an unfinished value', join(op.proto(), op.none, op.none, op.stop), /unfinished/],
    ['an open mark', join(op.proto(), op.emptyDict, op.mark, op.none, op.stop), /unfinished/],
    ['STOP on an empty stack', join(op.proto(), op.stop), /unfinished/],
    ['an empty stack', join(op.proto(), op.tuple2, op.stop), /stack is empty/],
    ['no mark', join(op.proto(), op.none, op.tuple, op.stop), /no mark/],
    ['values below the mark', join(op.proto(), op.none, op.mark, op.tuple1, op.stop), /stack is empty/],
    ['a memo slot never set', holding(op.get(3)), /slot 3/],
    ['the memo of an empty stack', join(op.proto(), op.put(0)), /empty stack/],
    ['a list for a state dict', join(op.proto(), op.emptyList, op.stop), /holds a list/],
    ['a wrapped state dict', holding(op.emptyDict), /"w" is a dict, expected a tensor. Save the state dict alone/],
    ['a number for a name', join(op.proto(), op.emptyDict, op.int(1), tensor(spec), op.setItem, op.stop), /key 1/],
    ['a tuple for a name', join(op.proto(), op.emptyDict, op.emptyTuple, op.none, op.setItem, op.stop), /key is a tuple/],
    ['a doubled name', dictPickle([['w', tensor(spec)], ['w', tensor(spec)]]), /"w" is set twice/],
    ['a tensor named __proto__', dictPickle([['__proto__', tensor(spec)]]), /__proto__/],
    ['a key without a value', join(op.proto(), op.emptyDict, op.mark, op.text('a'), op.setItems, op.stop), /key without a value/],
    ['SETITEM on a list', join(op.proto(), op.emptyList, op.text('a'), op.none, op.setItem, op.stop), /SETITEMS on a list/],
    ['APPEND to a dict', join(op.proto(), op.emptyDict, op.none, op.append, op.stop), /APPEND to a dict/],
  ]
  it.each(attacks)('refuses %s', async (_, bytes, message) => {
    await expectError(() => read(bytes), PICKLE, message)
  })

  it('bounds stack, marks and memo', async () => {
    await expectError(
      () => read(join(op.proto(), Buffer.alloc(600_000, 'N'))),
      PICKLE,
      /stack grows too deep/,
    )
    await expectError(() => read(join(op.proto(), Buffer.alloc(10_000, '('))), PICKLE, /marks nest too deep/)
    const puts = join(...Array.from({ length: 100 }, (_, i) => op.put(2 ** 32 - 1 - i)))
    await expectError(() => read(join(op.proto(), op.none, puts)), PICKLE, /middle of an opcode/)
  })

  it('does not walk what it built: a list of lists doubling 60 times, and a list that holds itself', async () => {
    const double = join(op.put(0), op.emptyList, op.mark, op.get(0), op.get(0), 'e')
    // [x] becomes [[x], [x]], 60 times over: 2^60 leaves in a kilobyte.
    const bomb = join(op.proto(), op.emptyList, ...Array<Buffer>(60).fill(join(double, op.tuple1)), op.stop)
    await expectError(() => read(bomb), PICKLE)
    const self = join(op.proto(), op.emptyList, op.put(0), op.get(0), op.append, op.stop)
    await expectError(() => read(self), PICKLE, /holds a list/)
  })

  it('nests tuples a million deep without recursion', async () => {
    const deep = join(op.proto(), op.emptyTuple, Buffer.alloc(1_000_000, 0x85), op.stop)
    await expectError(() => read(deep), PICKLE, /holds a tuple/)
  })

  it('answers any damage with a typed error', () => {
    const whole = dictPickle(
      [
        ['w', tensor(spec)],
        ['v', tensor({ ...spec, key: '1' })],
      ],
      orderedDict(),
    )
    const damage = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
    fc.assert(
      fc.property(damage, fc.nat(whole.length), (changes, cut) => {
        const bytes = Buffer.from(whole.subarray(0, cut % 3 === 0 ? cut : whole.length))
        for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value
        try {
          read(bytes)
        } catch (error) {
          expect(error).toMatchObject({ code: PICKLE })
        }
      }),
      { numRuns: 3000 },
    )
  })
})
