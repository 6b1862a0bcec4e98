/** Files nobody should load: each is an OpenMoeError that names the trouble, or a tokenizer that works; never a crash. */
import fc from 'fast-check'
import { mkdirSync, mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { OpenMoeError } from '../../lib/errors.ts'
import { callNative, native } from '../../lib/native.ts'
import { Tokenizer } from '../../lib/tokenizer/tokenizer.ts'
import { loadFiles, nfkc, tiny, toTokenizerJson } from './folders.ts'
import { basePieces, writeSpiece, type SpiecePiece } from './spiece_file.ts'

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
        if (survives(writeSpiece({ ...rest, pieces: all as SpiecePiece[] }))) working++
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

describe('tokenizer.json is refused, naming the field,', () => {
  type Changes = (json: any) => unknown // eslint-disable-line @typescript-eslint/no-explicit-any
  const good = toTokenizerJson(files[0]!)
  const changed = (change: Changes) => {
    const json = structuredClone(good)
    change(json)
    return loadFiles({ 'tokenizer.json': json })
  }

  it('(unchanged it loads)', async () => {
    expect((await changed(() => {})).vocabSize).toBe(good.model.vocab.length)
  })

  it.each<[string, Changes, RegExp]>([
    ['no model', (j) => delete j.model, /\.model is undefined, expected an object/],
    ['another type', (j) => (j.model.type = 'BPE'), /model\.type is "BPE", expected "Unigram"/],
    ['no vocab', (j) => delete j.model.vocab, /model\.vocab is undefined, expected an array/],
    ['a vocab that is an object', (j) => (j.model.vocab = { a: 1 }), /model\.vocab/],
    ['an empty vocab', (j) => (j.model.vocab = []), /model\.unk_id/],
    ['a piece without score', (j) => (j.model.vocab[300] = ['x']), /vocab\[300\] is an array/],
    ['a score that is a string', (j) => (j.model.vocab[300][1] = 'NaN'), /vocab\[300\]/],
    ['a score that is null', (j) => (j.model.vocab[300][1] = null), /vocab\[300\]/],
    ['a score beyond float32', (j) => (j.model.vocab[300][1] = -1e300), /piece 300 .* not finite/],
    ['a piece twice', (j) => (j.model.vocab[300] = j.model.vocab[301]), /is there twice/],
    ['no unk_id', (j) => (j.model.unk_id = null), /model\.unk_id is null/],
    ['unk_id 2^31', (j) => (j.model.unk_id = 2 ** 31), /model\.unk_id is 2147483648/],
    ['unk_id beyond vocab', (j) => (j.model.unk_id = 99999), /model\.unk_id/],
    ['byte_fallback as text', (j) => (j.model.byte_fallback = 'yes'), /model\.byte_fallback is "yes"/],
    ['no byte pieces', (j) => (j.model.vocab[10][0] = 'zzz'), /not all of <0x00>/],
    ['an added id 2^31', (j) => (j.added_tokens[0].id = 2 ** 31), /added_tokens\[0\]\.id is 2147483648/],
    ['an added id -1', (j) => (j.added_tokens[0].id = -1), /added_tokens\[0\]\.id is -1/],
    ['an added id far away', (j) => j.added_tokens.push({ id: 2e9, content: 'x' }), /has id 2000000000/],
    ['an added token on another', (j) => (j.added_tokens[0].id = 300), /'<pad>' has id 300, but is piece 0/],
    [
      'an added token over a piece',
      (j) => j.added_tokens.push({ id: 300, content: 'zzz' }),
      /has id 300, but that is/,
    ],
    ['single_word', (j) => (j.added_tokens[0].single_word = true), /added_tokens\[0\]\.single_word/],
    ['added_tokens that are text', (j) => (j.added_tokens = 'x'), /added_tokens is "x"/],
    [
      'a foreign normalizer',
      (j) => (j.normalizer = { type: 'Lowercase' }),
      /normalizer\.type is "Lowercase"/,
    ],
    [
      'a foreign Replace',
      (j) => (j.normalizer.normalizers[2].pattern.Regex = '(a+)+$'),
      /normalizers\[2\]\.pattern/,
    ],
    [
      'a Prepend of text',
      (j) => (j.normalizer = { type: 'Prepend', prepend: 'x' }),
      /normalizer\.prepend is "x"/,
    ],
    [
      'a broken charsmap',
      (j) => (j.normalizer.normalizers[0].precompiled_charsmap = 'AAAA'),
      /precompiled_charsmap/,
    ],
    [
      'a foreign pre_tokenizer',
      (j) => (j.pre_tokenizer = { type: 'ByteLevel' }),
      /pre_tokenizer\.type is "ByteLevel"/,
    ],
    [
      'a foreign replacement',
      (j) => (j.pre_tokenizer.replacement = '_'),
      /pre_tokenizer\.replacement is "_"/,
    ],
    ['a foreign decoder', (j) => (j.decoder = { type: 'WordPiece' }), /decoder\.type is "WordPiece"/],
    ['no decoder', (j) => delete j.decoder, /\.decoder is undefined/],
    ['a foreign post_processor', (j) => (j.post_processor = { type: 'ByteLevel' }), /post_processor\.type/],
  ])('for %s', async (_, change, message) => {
    const loading = changed(change)
    await expect(loading).rejects.toEqual(tokenizerCode)
    await expect(loading).rejects.toThrow(message)
  })

  it('for text that is not JSON', async () => {
    for (const text of ['', '{', '[]', 'null', '"x"', '['.repeat(100_000), Buffer.from([0x7b, 0xff, 0x7d])]) {
      await expect(loadFiles({ 'tokenizer.json': text })).rejects.toEqual(tokenizerCode)
    }
  })

  it('for wrong types anywhere', async () => {
    const junk = fc.constantFrom<unknown>(null, 0, -1, 2 ** 31, 1e308, '', 'x', [], [[]], {}, true)
    const paths = [...leaves(good)].filter((path) => path[1] !== 'vocab' || Number(path[2]) % 50 === 0)
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...paths), junk, async (path, value) => {
        const json = structuredClone(good) as unknown as Record<string, unknown>
        let at = json
        for (const key of path.slice(0, -1)) at = at[key] as Record<string, unknown>
        at[path.at(-1)!] = value
        try {
          const tokenizer = await loadFiles({ 'tokenizer.json': json })
          tokenizer.decode(tokenizer.encode(TEXT, { parseSpecial: true }))
        } catch (error) {
          expect(error).toBeInstanceOf(OpenMoeError)
        }
      }),
      { numRuns: 200 },
    )
  })
})

function* leaves(value: unknown, path: string[] = []): Generator<string[]> {
  if (path.length > 0) yield path
  if (typeof value !== 'object' || value === null) return
  for (const [key, child] of Object.entries(value)) yield* leaves(child, [...path, key])
}

describe('tokenizer_config.json is refused', () => {
  const load = (config: object) => loadFiles({ 'spiece.model': files[0]!, 'tokenizer_config.json': config })
  it.each([
    ['a million sentinels', { extra_ids: 1e6 }, /extra_ids is 1000000/],
    ['an id 2^31', { added_tokens_decoder: { 2147483648: { content: 'x' } } }, /"2147483648" is no token id/],
    ['an id that is none', { added_tokens_decoder: { '-1': { content: 'x' } } }, /"-1" is no token id/],
    ['an added token without text', { added_tokens_decoder: { 900: {} } }, /900\.content is undefined/],
    ['a token that is a number', { eos_token: 7 }, /eos_token is a value of type number/],
    [
      'special tokens that are no array',
      { additional_special_tokens: 'x' },
      /additional_special_tokens is "x"/,
    ],
    [
      'a special token that is a number',
      { additional_special_tokens: [7] },
      /additional_special_tokens\[0\]/,
    ],
    ['add_bos_token as text', { add_bos_token: 'no' }, /add_bos_token is "no"/],
    ['a chat_template of numbers', { chat_template: [7] }, /chat_template\[0\]/],
  ])('for %s', async (_, config, message) => {
    await expect(load(config)).rejects.toEqual(tokenizerCode)
    await expect(load(config)).rejects.toThrow(message)
  })
})

it('a folder in the place of a file is an error of its own', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'openmoe-tokenizer-'))
  mkdirSync(join(folder, 'spiece.model'))
  await expect(Tokenizer.load(folder)).rejects.toMatchObject({ code: 'ERR_OPENMOE_FILE_READ' })
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
      () => new native.StreamDecoder(tokenizer, true).push.call(tokenizer as never, new Int32Array(1)),
    ]
    for (const call of calls) expect(call).toThrow(invalid)
    expect(() => tokenizer.encode.call({} as never, 'x', true)).toThrow()
  })
})
