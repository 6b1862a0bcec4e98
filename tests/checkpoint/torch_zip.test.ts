import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readTorchZip } from '../../lib/checkpoint/torch_zip.ts'
import { expectError } from '../support/expect_error.ts'
import { dictPickle, op, tensor, torchFile, type TensorSpec } from '../support/pickle_builder.ts'
import { tempFolder } from '../support/temp_folder.ts'
import { buildZip, type RecordToZip, type ZipOptions } from '../support/zip_builder.ts'

const temp = tempFolder()
const golden = join(import.meta.dirname, '../golden/tiny_bin_sharded/pytorch_model-00001-of-00003.bin')
const ZIP = 'ERR_OPENMOE_TORCH_ZIP'

const values = Buffer.from(Float32Array.from({ length: 12 }, (_, i) => i).buffer)
const plain: TensorSpec = { name: 'w', elements: 12, shape: [3, 4], strides: [4, 1] }
const pickleOf = (spec: TensorSpec) => dictPickle([[spec.name, tensor(spec)]])
const read = (bytes: Buffer) => readTorchZip(temp.write('model.bin', bytes))
const readSpec = (spec: TensorSpec, options: ZipOptions = {}) =>
  read(torchFile(pickleOf(spec), { 0: values }, options))

/** Elements through offset and strides, straight from the file's bytes. */
function elements(
  bytes: Buffer,
  entry: { offset: number; shape: readonly number[]; strides: readonly number[] },
): number[] {
  const [rows, cols] = entry.shape as [number, number]
  const [rowStride, colStride] = entry.strides as [number, number]
  return Array.from({ length: rows * cols }, (_, i) =>
    bytes.readFloatLE(entry.offset + 4 * (Math.floor(i / cols) * rowStride + (i % cols) * colStride)),
  )
}

describe('torch zip archive', () => {
  const forms: [string, ZipOptions][] = [
    ['as torch writes it: zip64 end record, sizes after the data', {}],
    ['without zip64', { zip64: 'never' }],
    ['with every size and offset in zip64 fields', { zip64: 'all' }],
    ['with sizes in the local headers', { streamed: false }],
    ['with a comment', { zip64: 'never', comment: 'PK\u0005\u0006 not an end' }],
  ]
  it.each(forms)('reads an archive %s', async (_, options) => {
    const bytes = torchFile(pickleOf(plain), { 0: values }, options)
    const { tensors, file } = await read(bytes)
    expect(file.bytes).toBe(bytes.length)
    expect(elements(bytes, tensors.get('w')!)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
  })

  it('reads the shards of the golden case, with the permuted view of lm_head', async () => {
    const { tensors } = await readTorchZip(golden)
    expect(tensors.size).toBe(17)
    expect(tensors.get('lm_head.weight')).toMatchObject({ dtype: 'F32', shape: [96, 48], strides: [1, 96] })
  })

  it('honours offsets and strides of views', async () => {
    const bytes = torchFile(pickleOf({ ...plain, offset: 1, shape: [3, 2], strides: [1, 4] }), { 0: values })
    const { tensors } = await read(bytes)
    expect(elements(bytes, tensors.get('w')!)).toEqual([1, 5, 2, 6, 3, 7])
  })

  it.each([
    ['FloatStorage', 'F32', 4],
    ['HalfStorage', 'F16', 2],
    ['BFloat16Storage', 'BF16', 2],
  ])('reads %s as %s', async (type, dtype, size) => {
    const spec = { ...plain, type, shape: [2], strides: [1], offset: 1, elements: 3 }
    const { tensors } = await read(torchFile(pickleOf(spec), { 0: Buffer.alloc(3 * size) }))
    expect(tensors.get('w')).toMatchObject({ dtype, shape: [2] })
  })

  it('unwraps parameters, shares storages, and reads zero-size and scalar tensors', async () => {
    const specs: TensorSpec[] = [
      { ...plain, name: 'a', parameter: true },
      { ...plain, name: 'b', shape: [], strides: [], offset: 11 },
      { ...plain, name: 'c', shape: [0, 9], strides: [9, 1], offset: 12 },
    ]
    const { tensors } = await read(
      torchFile(dictPickle(specs.map((s) => [s.name, tensor(s)])), { 0: values }),
    )
    expect([...tensors.keys()]).toEqual(['a', 'b', 'c'])
    expect(tensors.get('b')!.offset - tensors.get('a')!.offset).toBe(44)
  })

  it('takes storages beyond 2^31 elements from LONG1 integers', async () => {
    const spec = { ...plain, elements: 2 ** 33 }
    await expectError(
      readSpec(spec),
      ZIP,
      /should be F32 x 8589934592 = 34359738368 bytes, its record has 48/,
    )
  })

  const views: [string, Partial<TensorSpec>][] = [
    ['one row too many', { shape: [4, 4] }],
    ['an offset of one', { offset: 1 }],
    ['an offset at the end', { offset: 12, shape: [1], strides: [1] }],
    ['an offset past the end of a zero-size tensor', { offset: 13, shape: [0], strides: [1] }],
    ['a stride too large', { strides: [5, 1] }],
    ['strides whose product passes 2^53', { shape: [2 ** 30, 2], strides: [2 ** 30, 1] }],
    ['sizes and strides near 2^53', { shape: [2 ** 40], strides: [2 ** 52] }],
  ]
  it.each(views)('refuses a view with %s', async (_, change) => {
    await expectError(
      readSpec({ ...plain, ...change }),
      ZIP,
      /"w": .* reach outside its storage of 12 elements/,
    )
  })

  it('refuses an element count that overflows even with stride 0', async () => {
    await expectError(readSpec({ ...plain, shape: [2 ** 40, 2 ** 40], strides: [0, 0] }), ZIP, /overflows/)
  })

  it('keeps any view it accepts inside the storage', async () => {
    const small = fc.nat(8)
    const views = fc.record({
      shape: fc.tuple(small, small),
      strides: fc.tuple(small, small),
      offset: fc.nat(14),
    })
    await fc.assert(
      fc.asyncProperty(views, async ({ shape, strides, offset }) => {
        const touched: number[] = []
        for (let i = 0; i < shape[0]; i++) {
          for (let j = 0; j < shape[1]; j++) touched.push(offset + i * strides[0] + j * strides[1])
        }
        const fits = touched.length > 0 ? Math.max(...touched) < 12 : offset <= 12
        const result = readSpec({ ...plain, shape, strides, offset })
        await (fits ? result : expectError(result, ZIP, /outside/))
      }),
      { numRuns: 300 },
    )
  })

  it('refuses storages that are missing, of another size, or described twice', async () => {
    await expectError(read(torchFile(pickleOf({ ...plain, key: '7' }), { 0: values })), ZIP, /storage "7"/)
    await expectError(
      read(torchFile(pickleOf(plain), { 0: values.subarray(4) })),
      ZIP,
      /should be F32 x 12 = 48 bytes, its record has 44/,
    )
    const twice = [tensor(plain), tensor({ ...plain, type: 'HalfStorage', elements: 24 })]
    const pickle = dictPickle([
      ['a', twice[0]!],
      ['b', twice[1]!],
    ])
    await expectError(read(torchFile(pickle, { 0: values })), ZIP, /described as F32 x 12 and as F16 x 24/)
  })

  it('reads only little-endian files', async () => {
    const records = (order: string): RecordToZip[] => [
      { name: 'r/data.pkl', data: pickleOf(plain) },
      { name: 'r/byteorder', data: Buffer.from(order) },
      { name: 'r/data/0', data: values },
    ]
    expect((await read(buildZip(records('little')))).tensors.size).toBe(1)
    await expectError(read(buildZip(records('big'))), ZIP, /byteorder is "big"/)
  })

  const records: RecordToZip[] = [
    { name: 'r/data.pkl', data: pickleOf(plain) },
    { name: 'r/data/0', data: values },
  ]
  const [pkl, data] = records as [RecordToZip, RecordToZip]
  const structures: [string, Buffer, RegExp][] = [
    ['a compressed record', buildZip([{ ...pkl, method: 8 }, data]), /compressed; torch\.save/],
    ['an encrypted record', buildZip([{ ...pkl, flags: 1 }, data]), /encrypted/],
    ['another name in the local header', buildZip([pkl, { ...data, localName: 'r/data/1' }]), /another name/],
    [
      'a longer name in the local header',
      buildZip([pkl, { ...data, localName: 'r/data/00' }]),
      /another name/,
    ],
    ['another size in the local header', buildZip([pkl, { ...data, localSize: 47 }]), /another size/],
    [
      'a record that reaches into the directory',
      buildZip([pkl, { ...data, size: 200 }]),
      /beyond the start of the directory/,
    ],
    [
      'a record that overlaps the next',
      buildZip([{ ...pkl, size: pkl.data.length + 100 }, data]),
      /overlaps/,
    ],
    [
      'two entries for one record',
      buildZip([pkl, data, { ...data, headerOffset: 0, localName: 'r/data/0' }]),
      /name|overlaps/,
    ],
    ['a doubled name', buildZip([pkl, data, data]), /two records are named "r\/data\/0"/],
    ['a record outside the file', buildZip([pkl, { ...data, headerOffset: 10_000 }]), /outside the records/],
    ['a record where there is none', buildZip([pkl, { ...data, headerOffset: 1 }]), /no header at 1/],
    ['a gap after the directory', buildZip(records, { gap: Buffer.alloc(3) }), /must end at/],
    ['more entries than there are', buildZip(records, { count: 3 }), /directory entry 2 of 3/],
    [
      'fewer entries than there are',
      buildZip(records, { count: 1 }),
      /bytes follow the last directory entry/,
    ],
    ['bytes before the archive', buildZip(records, { before: Buffer.from('#!/bin/sh\n') }), /no zip archive/],
    ['a NUL in a name', buildZip([pkl, data, { ...data, name: 'r/data/0\0' }]), /not text/],
    ['no data.pkl', buildZip([data]), /no records <name>\/data.pkl/],
    ['two data.pkl', buildZip([pkl, data, { ...pkl, name: 's/data.pkl' }]), /2 records <name>\/data.pkl/],
    ['an empty archive', buildZip([], { zip64: 'never' }), /no records/],
    ['an empty file', Buffer.alloc(0), /no zip archive/],
    ['a lone signature', Buffer.from('PK\x03\x04'), /too short/],
    ['a git-lfs pointer', Buffer.from('version https://git-lfs.github.com/spec/v1\n'), /git lfs pull/],
    [
      'the legacy torch format',
      Buffer.concat([op.proto(), Buffer.from([0x8a, 10]), Buffer.alloc(40)]),
      /legacy torch format.*torch\.save/,
    ],
  ]
  it.each(structures)('refuses %s', async (_, bytes, message) => {
    await expectError(read(bytes), ZIP, message)
  })

  it.each([
    ['count', 24],
    ['count in total', 32],
    ['directory size', 40],
    ['directory offset', 48],
    ['record size', 4],
  ])('refuses a zip64 end record with a wrong %s', async (_, field) => {
    const bytes = buildZip(records)
    const end64 = bytes.length - 22 - 20 - 56
    for (const value of [0n, 1n, 2n ** 53n + 2n, 2n ** 64n - 1n]) {
      const changed = Buffer.from(bytes)
      changed.writeBigUInt64LE(value, end64 + field)
      await expectError(read(changed), ZIP)
    }
  })

  it('refuses saturated end records without their zip64 half', async () => {
    const bytes = buildZip(records, { zip64: 'all' })
    const end64 = bytes.length - 22 - 20 - 56
    const without = Buffer.concat([bytes.subarray(0, end64), bytes.subarray(bytes.length - 22)])
    await expectError(read(without), ZIP, /zip64 end record is missing/)
  })

  it('rejects a file cut at every structure and at 64 random places', async () => {
    const whole = readFileSync(golden)
    const cuts = new Set([
      1,
      2,
      4,
      30,
      whole.length - 1,
      whole.length - 21,
      whole.length - 22,
      whole.length - 42,
      whole.length - 98,
    ])
    for (let at = whole.indexOf('PK'); at >= 0; at = whole.indexOf('PK', at + 1)) cuts.add(at)
    for (let i = 0, x = 99; i < 64; i++) cuts.add((x = (x * 1103515245 + 12345) % 2147483648) % whole.length)
    for (const cut of cuts) await expectError(read(whole.subarray(0, cut)), ZIP)
  })

  it('answers any damage with a typed error or views inside the file', async () => {
    const whole = torchFile(pickleOf(plain), { 0: values })
    const damage = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 3 })
    await fc.assert(
      fc.asyncProperty(damage, async (changes) => {
        const bytes = Buffer.from(whole)
        for (const [at, value] of changes) bytes[at] = value
        try {
          for (const entry of (await read(bytes)).tensors.values())
            elements(bytes, { ...entry, shape: [1, 1] })
        } catch (error) {
          expect((error as { code?: string }).code).toMatch(/^ERR_OPENMOE_(TORCH_ZIP|PICKLE|FILE_TRUNCATED)$/)
        }
      }),
      { numRuns: 1500 },
    )
  })
})
