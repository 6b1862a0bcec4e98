import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { readSafetensorsHeader } from '../../lib/checkpoint/safetensors.ts'
import { readExactly } from '../../lib/checkpoint/file_reader.ts'
import type { ErrorCode } from '../../lib/errors.ts'
import { expectError } from '../support/expect_error.ts'
import { headerLength, safetensorsBytes } from '../support/safetensors_bytes.ts'
import { tempFolder } from '../support/temp_folder.ts'

const temp = tempFolder()
const golden = join(import.meta.dirname, '../golden/tiny_drops/model.safetensors')
const HEADER = 'ERR_OPENMOE_SAFETENSORS_HEADER'
const LAYOUT = 'ERR_OPENMOE_SAFETENSORS_LAYOUT'
const TRUNCATED = 'ERR_OPENMOE_FILE_TRUNCATED'

const entry = (fields: string) => `{"w":{${fields}}}`
const f32 = (shape: string, offsets = '[0,8]') =>
  entry(`"dtype":"F32","shape":${shape},"data_offsets":${offsets}`)
const ten = Object.fromEntries(
  Array.from({ length: 10 }, (_, i) => [`t${i}`, { dtype: 'F32', shape: [2], data_offsets: [0, 8] }]),
)
const two = (first: [number, number], second: [number, number]) => ({
  a: { dtype: 'U8', shape: [first[1] - first[0]], data_offsets: first },
  b: { dtype: 'U8', shape: [second[1] - second[0]], data_offsets: second },
})

type Row = [what: string, bytes: Buffer, code: ErrorCode, message: RegExp]
// prettier-ignore
const rejected: Row[] = [
  ...[0, 1, 2, 3, 4, 5, 6, 7].map((n): Row => [`${n} byte file`, Buffer.alloc(n), TRUNCATED, /8-byte header length/]), ['header length 0', headerLength(0n), HEADER, /empty/], ['header length beyond the file', Buffer.concat([headerLength(100n), Buffer.alloc(50)]), TRUNCATED, /108/], ['header length 2^64 - 1', Buffer.concat([headerLength(2n ** 64n - 1n), Buffer.alloc(9)]), HEADER, /18446744073709551615/],
  ['header length above 64 MiB', headerLength(2n ** 26n + 1n), HEADER, /67108865/],
  ['a git-lfs pointer', Buffer.from('version https://git-lfs.github.com/spec/v1\n'), HEADER, /git lfs pull/],
  ['not UTF-8', safetensorsBytes(Buffer.from([0x7b, 0xff, 0x7d])), HEADER, /UTF-8/],
  ['a lone brace', safetensorsBytes('{'), HEADER, /end of the text/],
  ['an array', safetensorsBytes('[]'), HEADER, /is an array, expected an object/],
  ['a byte order mark', safetensorsBytes('\ufeff{}'), HEADER, /expected an object/],
  ['text after the object', safetensorsBytes('{}{}'), HEADER, /more text/],
  ['a trailing comma', safetensorsBytes('{"__metadata__":{},}'), HEADER, /expected a string/],
  ['a duplicate tensor name', safetensorsBytes('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{}}'), HEADER, /"a" twice/],
  ['a duplicate dtype', safetensorsBytes(entry('"dtype":"F32","dtype":"F32"')), HEADER, /"dtype" twice/],
  ['an unknown field', safetensorsBytes(entry('"dtyp":"F32"')), HEADER, /"dtyp" is unknown/],
  ['no shape', safetensorsBytes(entry('"dtype":"F32","data_offsets":[0,0]')), HEADER, /incomplete/],
  ['one offset', safetensorsBytes(f32('[2]', '[0]'), 8), HEADER, /incomplete/],
  ['three offsets', safetensorsBytes(f32('[2]', '[0,8,8]'), 8), HEADER, /more than 2 entries/],
  ['ten tensors on one range', safetensorsBytes(ten, 8), LAYOUT, /overlaps/],
  ['partly overlapping tensors', safetensorsBytes(two([0, 8], [7, 15]), 15), LAYOUT, /overlaps/],
  ['a hole between tensors', safetensorsBytes(two([0, 8], [9, 17]), 17), LAYOUT, /leaves a hole/],
  ['a hole before the first tensor', safetensorsBytes(f32('[2]', '[8,16]'), 16), LAYOUT, /leaves a hole/],
  ['bytes after the last tensor', safetensorsBytes(f32('[2]'), 9), LAYOUT, /1 bytes follow/],
  ['a file 2 bytes short', safetensorsBytes(f32('[2]'), 6), TRUNCATED, /its tensors end at/],
  ['begin after end', safetensorsBytes(f32('[2]', '[8,0]'), 8), LAYOUT, /end before they begin/],
  ['offsets that are not shape x dtype', safetensorsBytes(f32('[3]'), 8), LAYOUT, /hold 8 bytes, F32 \[3\] takes 12/],
  ['offsets that hold more than shape x dtype', safetensorsBytes(f32('[1]'), 8), LAYOUT, /hold 8 bytes, F32 \[1\] takes 4/],
  ['shape [2, 2^64 - 2]', safetensorsBytes(f32('[2,18446744073709551614]'), 8), HEADER, /beyond 2\^53/],
  ['shape [2, 2^63 - 1]', safetensorsBytes(f32('[2,9223372036854775807]'), 8), HEADER, /beyond 2\^53/],
  ['shape 2^53 + 1', safetensorsBytes(f32('[9007199254740993]'), 8), HEADER, /shape\[0\] of tensor "w" is "9007199254740993"/],
  ['a shape whose product overflows', safetensorsBytes(f32('[4503599627370496,4503599627370496]'), 8), LAYOUT, /overflows/],
  ['a product that wraps around to 8 bytes', safetensorsBytes(f32('[4294967298,2147483648]'), 8), LAYOUT, /overflows/],
  ['a negative size', safetensorsBytes(f32('[-1]'), 8), HEADER, /negative/],
  ['the size 1.5', safetensorsBytes(f32('[1.5]'), 8), HEADER, /fraction/],
  ['the size 2.0', safetensorsBytes(f32('[2.0]'), 8), HEADER, /fraction/],
  ['the size 1e3', safetensorsBytes(f32('[1e3]'), 8), HEADER, /exponent/],
  ['the size "4"', safetensorsBytes(f32('["4"]'), 8), HEADER, /is a string, expected an integer/],
  ['the size 02', safetensorsBytes(f32('[02]'), 8), HEADER, /superfluous 0/],
  ['the size null', safetensorsBytes(f32('[null]'), 8), HEADER, /is null/],
  ['a negative offset', safetensorsBytes(f32('[2]', '[-8,0]'), 8), HEADER, /negative/],
  ['a shape that is a string', safetensorsBytes(f32('"2"'), 8), HEADER, /shape of tensor "w" is a string/],
  ['17 axes', safetensorsBytes(f32(JSON.stringify(Array(17).fill(1))), 8), HEADER, /more than 16/],
  ['an unknown dtype', safetensorsBytes(entry('"dtype":"F31","shape":[2],"data_offsets":[0,8]'), 8), 'ERR_OPENMOE_DTYPE', /"F31" is unknown/],
  ['dtype __proto__', safetensorsBytes(entry('"dtype":"__proto__","shape":[2],"data_offsets":[0,8]'), 8), 'ERR_OPENMOE_DTYPE', /unknown/],
  ['a dtype that is a number', safetensorsBytes(entry('"dtype":32'), 8), HEADER, /dtype of tensor "w" is a number/],
  ['metadata with a number', safetensorsBytes('{"__metadata__":{"a":1}}'), HEADER, /__metadata__ "a" is a number/],
  ['metadata that is null', safetensorsBytes('{"__metadata__":null}'), HEADER, /null, expected an object/],
  ['a tensor named __proto__', safetensorsBytes('{"__proto__":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), HEADER, /__proto__/],
  ['half a surrogate pair', safetensorsBytes('{"\\ud800":{}}'), HEADER, /surrogate/],
  ['a bad escape', safetensorsBytes('{"\\x":{}}'), HEADER, /escape/],
  ['a control character in a name', safetensorsBytes('{"a\nb":{}}'), HEADER, /control character/],
  ['a string without an end', safetensorsBytes('{"abc'), HEADER, /without an end/],
  ['JSON 10,000 deep', safetensorsBytes(`{"w":${'{"a":'.repeat(10_000)}1${'}'.repeat(10_000)}}`), HEADER, /"a" is unknown/],
  ['arrays 10,000 deep', safetensorsBytes(f32('['.repeat(10_000) + ']'.repeat(10_000)), 8), HEADER, /is an array, expected an integer/],
]

describe('safetensors header', () => {
  it.each(rejected)('rejects %s', async (_, bytes, code, message) => {
    const path = temp.write('rejected.safetensors', bytes)
    const text = await expectError(readSafetensorsHeader(path), code, message)
    expect(text).toContain(path)
  })

  it('rejects 1,000,000 tensors without spending seconds on them', async () => {
    const names = Array.from(
      { length: 1_000_000 },
      (_, i) => `"t${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`,
    )
    const path = temp.write('million.safetensors', safetensorsBytes(`{${names.join(',')}}`))
    const start = performance.now()
    await expectError(readSafetensorsHeader(path), HEADER, /more than 131072 tensors/)
    expect(performance.now() - start).toBeLessThan(3000)
  })

  it('reads 100,000 tensors within a few seconds, whatever order they lie in', async () => {
    const names = Array.from({ length: 100_000 }, (_, i) => {
      const begin = (i * 7919) % 100_000
      return `"t${i}":{"dtype":"U8","shape":[1],"data_offsets":[${begin},${begin + 1}]}`
    })
    const path = temp.write('many.safetensors', safetensorsBytes(`{${names.join(',')}}`, 100_000))
    const start = performance.now()
    const { tensors } = await readSafetensorsHeader(path)
    expect(tensors.size).toBe(100_000)
    expect(performance.now() - start).toBeLessThan(5000)
  })

  const accepted: [string, Buffer, number][] = [
    ['an empty object', safetensorsBytes('{}'), 0],
    [
      'white space around',
      safetensorsBytes(
        ' \n\t\r{ "w" : { "shape" : [ 2 ] , "dtype":"F32", "data_offsets":[0, 8] } } \n '.replace('  ', ' '),
        8,
      ),
      1,
    ],
    ['a zero-size tensor', safetensorsBytes(f32('[0,3]', '[0,0]')), 1],
    ['rank 0', safetensorsBytes(f32('[]', '[0,4]'), 4), 1],
    [
      'zero-size tensors between others',
      safetensorsBytes({ ...two([0, 8], [8, 8]), c: { dtype: 'U8', shape: [1], data_offsets: [8, 9] } }, 9),
      3,
    ],
    ['metadata only', safetensorsBytes('{"__metadata__":{"format":"pt","é":"\\u00e9"}}'), 0],
    [
      'names that plain objects have',
      safetensorsBytes('{"constructor":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
      1,
    ],
  ]
  it.each(accepted)('accepts %s', async (_, bytes, count) => {
    const { tensors } = await readSafetensorsHeader(temp.write('accepted.safetensors', bytes))
    expect(tensors.size).toBe(count)
  })

  it('places tensors by absolute byte offset with row-major strides', async () => {
    const bytes = safetensorsBytes(two([0, 3], [3, 9]), 9)
    const path = temp.write('placed.safetensors', bytes)
    const { tensors, file } = await readSafetensorsHeader(path)
    expect(file).toEqual({ path, bytes: bytes.length })
    expect(tensors.get('b')).toEqual({
      name: 'b',
      file: path,
      dtype: 'U8',
      shape: [6],
      offset: bytes.length - 6,
      strides: [1],
    })
  })

  it('rejects a file cut at every header field and at 64 random places', async () => {
    const whole = readFileSync(golden)
    const header = 8 + Number(whole.readBigUInt64LE(0))
    const text = whole.subarray(8, header).toString('latin1')
    const fields = [...text.matchAll(/"/g)].map(({ index }) => 8 + index)
    const cuts = new Set([0, 7, 8, header - 1, header, whole.length - 1, ...fields])
    // A linear congruence instead of Math.random, so that a failure can be repeated.
    for (let i = 0, x = 12345; i < 64; i++)
      cuts.add((x = (x * 1103515245 + 12345) % 2147483648) % whole.length)
    for (const cut of cuts) {
      await expectError(
        readSafetensorsHeader(temp.write('cut.safetensors', whole.subarray(0, cut))),
        TRUNCATED,
      )
    }
  })

  it('answers any damaged header with a typed error or a description inside the file', async () => {
    const whole = readFileSync(golden)
    const header = 8 + Number(whole.readBigUInt64LE(0))
    const damage = fc.array(fc.tuple(fc.nat(header - 1), fc.nat(255)), { minLength: 1, maxLength: 3 })
    await fc.assert(
      fc.asyncProperty(damage, async (changes) => {
        const bytes = Buffer.from(whole)
        for (const [at, value] of changes) bytes[at] = value
        const path = temp.write('damaged.safetensors', bytes)
        try {
          const { tensors } = await readSafetensorsHeader(path)
          for (const { offset } of tensors.values()) expect(offset).toBeLessThanOrEqual(bytes.length)
        } catch (error) {
          expect((error as { code?: string }).code).toMatch(
            /^ERR_OPENMOE_(SAFETENSORS_(HEADER|LAYOUT)|FILE_TRUNCATED|DTYPE)$/,
          )
        }
      }),
      { numRuns: 1000 },
    )
  })

  it('says what it could not open', async () => {
    await expectError(
      readSafetensorsHeader(join(temp.path, 'none.safetensors')),
      'ERR_OPENMOE_FILE_READ',
      /does not exist/,
    )
    await expectError(readSafetensorsHeader(temp.path), 'ERR_OPENMOE_FILE_READ', /not a regular file/)
  })

  it('continues short reads and types a failing one', async () => {
    const source = Buffer.from('0123456789')
    const short = {
      read: async (target: Uint8Array, at: number, length: number, position: number) => {
        const bytesRead = Math.min(3, length, source.length - position)
        target.set(source.subarray(position, position + bytesRead), at)
        return { bytesRead, buffer: target }
      },
    } as unknown as Parameters<typeof readExactly>[0]
    expect((await readExactly(short, 'f', 1, 8, 'x')).toString()).toBe('12345678')
    await expectError(readExactly(short, 'f', 5, 8, 'x'), TRUNCATED, /after 10 bytes, inside x/)
    const failing = {
      read: () => Promise.reject(Object.assign(new Error('io'), { code: 'EIO' })),
    } as unknown as Parameters<typeof readExactly>[0]
    await expectError(readExactly(failing, 'f', 0, 1, 'x'), 'ERR_OPENMOE_FILE_READ', /EIO/)
  })
})
