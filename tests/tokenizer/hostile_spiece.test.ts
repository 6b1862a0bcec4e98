/** Files nobody should load: each is an OpenMoeError that names the trouble, or a tokenizer that works; never a crash. */
import fc from 'fast-check'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { callNative, native } from '../../lib/native.ts'
import { loadFiles, nfkc, tiny } from './folders.ts'
import { basePieces, writeSpiece } from './spiece_file.ts'

const tokenizerCode = expect.objectContaining({ name: 'OpenMoeError', code: 'ERR_OPENMOE_TOKENIZER' })
const files = [nfkc, tiny].map((folder) => readFileSync(join(folder, 'spiece.model')))
const TEXT = ' Hé llo\t<sep>ﬁ① \u2581漢字😀\0</s>'

/** True when the bytes make a tokenizer, which must then work. */
function survives(bytes: Uint8Array): boolean {
  let tokenizer
  try {
    tokenizer = callNative(() => new native.Tokenizer(bytes))
  } catch (error) {
    expect(error).toEqual(tokenizerCode)
    return false
  }
  const ids = tokenizer.encode(TEXT, true)
  expect(ids.every((id) => id >= 0 && id < tokenizer.vocabSize)).toBe(true)
  const stream = new native.StreamDecoder(tokenizer, true)
  expect(stream.push(ids) + stream.flush()).toBe(tokenizer.decode(ids, true))
  return true
}

describe('a damaged spiece.model', () => {
  const anyFile = fc.constantFrom(...files)

  it('cut anywhere', () => {
    for (const file of files) expect(survives(file)).toBe(true)
    fc.assert(fc.property(anyFile, fc.nat(), (file, at) => void survives(file.subarray(0, at % file.length))))
  })

  it('with flipped bits', () => {
    const flips = fc.array(fc.tuple(fc.nat(), fc.nat(7)), { minLength: 1, maxLength: 20 })
    fc.assert(
      fc.property(anyFile, flips, (file, list) => {
        const bytes = Buffer.from(file)
        for (const [at, bit] of list) bytes[at % bytes.length]! ^= 1 << bit
        survives(bytes)
      }),
      { numRuns: 300 },
    )
  })

  it('with flipped bits in the charsmap and the settings, which come last', () => {
    const flips = fc.array(fc.tuple(fc.nat(6500), fc.nat(255)), { minLength: 1, maxLength: 20 })
    fc.assert(
      fc.property(flips, (list) => {
        const bytes = Buffer.from(files[0]!)
        for (const [at, value] of list) bytes[bytes.length - 1 - at] = value
        survives(bytes)
      }),
      { numRuns: 500 },
    )
  })

  it('of random bytes', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => void survives(bytes)))
    expect(survives(new Uint8Array(0))).toBe(false)
  })

  it('of well-formed protobuf with random content', () => {
    const piece = fc.record({
      text: fc.oneof(fc.string({ unit: 'binary', maxLength: 5 }), fc.uint8Array({ maxLength: 4 })),
      score: fc.float(),
      type: fc.nat(7),
    })
    const charsmap = fc.tuple(fc.nat(40), fc.uint8Array({ maxLength: 200 })).map(([size, rest]) => {
      return Buffer.concat([Buffer.from([size * 4, 0, 0, 0]), rest])
    })
    const random = fc.record({
      pieces: fc.array(piece),
      base: fc.boolean(),
      byteFallback: fc.boolean(),
      charsmap: fc.option(charsmap, { nil: undefined }),
      addDummyPrefix: fc.boolean(),
      removeExtraWhitespaces: fc.boolean(),
    })
    let working = 0
    fc.assert(
      fc.property(random, ({ base, pieces, ...rest }) => {
        const all = [...(base ? basePieces(rest.byteFallback) : []), { text: 'a', score: -1 }, ...pieces]
        if (survives(writeSpiece({ ...rest, pieces: all }))) working++
      }),
      { numRuns: 500 },
    )
    expect(working).toBeGreaterThan(0)
  })
})

describe('spiece.model is refused', () => {
  const a = { text: 'a', score: -1 }
  const base = basePieces(false)
  it.each([
    ['another model type', { pieces: [...base, a], modelType: 2 }, /model_type is 2, only UNIGRAM/],
    ['no unknown piece', { pieces: [a] }, /no piece of type UNKNOWN/],
    ['two unknown pieces', { pieces: [...base, { text: 'u', type: 2 }, a] }, /second unknown piece/],
    ['nothing but control pieces', { pieces: base }, /no pieces for ordinary text/],
    ['a piece twice', { pieces: [...base, a, a] }, /'a' is there twice/],
    ['a control piece twice', { pieces: [...base, base[0]!, a] }, /'<pad>'\) is there twice/],
    ['an empty piece', { pieces: [...base, { text: '' }] }, /is empty/],
    ['a piece with NUL', { pieces: [...base, { text: 'a\0' }] }, /NUL/],
    ['a piece that is not UTF-8', { pieces: [...base, { text: Buffer.from([0xff]) }] }, /not UTF-8/],
    ['a score of NaN', { pieces: [...base, { text: 'a', score: NaN }] }, /not finite/],
    ['an infinite score', { pieces: [...base, { text: 'a', score: -Infinity }] }, /not finite/],
    ['an endless piece', { pieces: [...base, { text: 'a'.repeat(8000) }] }, /longer than 8000/],
    ['an unknown piece type', { pieces: [...base, { text: 'a', type: 9 }] }, /piece type 9/],
    ['byte fallback without bytes', { pieces: [...base, a], byteFallback: true }, /not all of <0x00>/],
    ['bytes without byte fallback', { pieces: [...basePieces(true), a] }, /byte_fallback is not set/],
    [
      'a byte piece misspelt',
      { pieces: [...base, { text: '<0xG0>', type: 6 }], byteFallback: true },
      /no byte piece/,
    ],
    [
      'a short charsmap',
      { pieces: [...base, a], charsmap: Buffer.from('abc') },
      /precompiled_charsmap is broken/,
    ],
    [
      'a charsmap beyond its end',
      { pieces: [...base, a], charsmap: Buffer.alloc(8, 0x44) },
      /precompiled_charsmap/,
    ],
  ])('for %s', async (_, file, message) => {
    const loading = loadFiles({ 'spiece.model': writeSpiece(file) })
    await expect(loading).rejects.toEqual(tokenizerCode)
    await expect(loading).rejects.toThrow(message)
    await expect(loading).rejects.toThrow(/spiece\.model: /)
  })

  it('and a charsmap that blows a text up ends in an error, not in all of the memory', () => {
    // "a" -> 4 MB of "b": a darts array of one transition. Units: root, then at 1^0x61 the unit of "a", then its value.
    const units = new Uint32Array(256)
    units[0] = 1 << 10
    units[1 ^ 0x61] = 0x61 | (1 << 8) | (1 << 10)
    units[1 ^ 0x61 ^ 1] = 0x80000000
    const blob = Buffer.concat([
      Buffer.from(new Uint32Array([1024]).buffer),
      Buffer.from(units.buffer),
      Buffer.alloc(4 << 20, 'b'),
    ])
    const bytes = writeSpiece({ pieces: [...base, a], charsmap: blob })
    const tokenizer = new native.Tokenizer(bytes)
    expect([...tokenizer.encode('b', false)]).toEqual([2])
    expect(() => tokenizer.encode('a'.repeat(1000), false)).toThrow(/64 MiB/)
  })
})

describe('the addon itself', () => {
  it('checks its arguments', () => {
    const tokenizer = new native.Tokenizer(files[0]!)
    const invalid = expect.objectContaining({ code: 'ERR_OPENMOE_INVALID_ARG' })
    const calls: (() => unknown)[] = [
      () => new native.Tokenizer(undefined as never),
      () => new native.Tokenizer(new Float32Array(3) as never),
      () => new native.StreamDecoder({} as never, true),
      () => tokenizer.encode(5 as never, true),
      () => tokenizer.decode([1] as never, true),
      () => tokenizer.decode(new Float32Array(1) as never, true),
      () => tokenizer.addToken('x', 'y' as never, true),
    ]
    for (const call of calls) expect(call).toThrow(invalid)
    const { push } = new native.StreamDecoder(tokenizer, true)
    expect(() => push.call(tokenizer as never, new Int32Array(1))).toThrow(/Illegal invocation/)
    expect(() => tokenizer.encode.call({} as never, 'x', true)).toThrow(/Illegal invocation/)
  })
})
