/** As hostile_spiece.test.ts, for the JSON files: every complaint names its field. */
import fc from 'fast-check'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { OpenMoeError } from '../../lib/errors.ts'
import { Tokenizer } from '../../lib/tokenizer/tokenizer.ts'
import { loadFiles, nfkc, toTokenizerJson } from './folders.ts'

const tokenizerCode = expect.objectContaining({ name: 'OpenMoeError', code: 'ERR_OPENMOE_TOKENIZER' })
const spiece = readFileSync(join(nfkc, 'spiece.model'))
const TEXT = ' Hé llo\t<sep>ﬁ① \u2581漢字😀\0</s>'

describe('tokenizer.json is refused, naming the field,', () => {
  type Changes = (json: any) => unknown // eslint-disable-line @typescript-eslint/no-explicit-any
  const good = toTokenizerJson(spiece)
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
  const load = (config: object) => loadFiles({ 'spiece.model': spiece, 'tokenizer_config.json': config })
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
  rmSync(folder, { recursive: true })
})
