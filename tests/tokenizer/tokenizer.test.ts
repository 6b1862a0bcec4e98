import fc from 'fast-check'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { Tokenizer } from '../../lib/tokenizer/tokenizer.ts'
import { loadFiles, loadOnly, nfkc, tiny, toTokenizerJson } from './folders.ts'
import { basePieces, writeSpiece } from './spiece_file.ts'

const spiece = readFileSync(join(tiny, 'spiece.model'))
const fromSpiece = await loadOnly(tiny, 'spiece.model')
const fromJson = await loadOnly(tiny, 'tokenizer.json')
const ids = (tokenizer: Tokenizer, text: string, options?: object) => [...tokenizer.encode(text, options)]
const plain = { addSpecial: false }
const parse = { addSpecial: false, parseSpecial: true }

describe.each([
  ['spiece.model', fromSpiece],
  ['tokenizer.json', fromJson],
])('Tokenizer from %s', (_, tokenizer) => {
  it('takes the special ids from the files', () => {
    const { bosId, eosId, padId, unkId, vocabSize, bosToken, eosToken } = tokenizer
    expect({ bosId, eosId, padId, unkId, vocabSize, bosToken, eosToken }).toEqual({
      bosId: 0,
      eosId: 1,
      padId: 0,
      unkId: 2,
      vocabSize: 4096,
      bosToken: '<pad>',
      eosToken: '</s>',
    })
    expect([...tokenizer.specialTokens]).toEqual([
      ['<pad>', 0],
      ['</s>', 1],
      ['<unk>', 2],
    ])
    expect(tokenizer.chatTemplate).toBeUndefined()
  })

  it('puts the pad token in front and no end token behind', () => {
    expect(ids(tokenizer, 'of')).toEqual([0, ...ids(tokenizer, 'of', plain)])
    expect(ids(tokenizer, '')).toEqual([0])
    expect(ids(tokenizer, '', plain)).toEqual([])
    expect(tokenizer.count('of')).toBe(tokenizer.encode('of').length)
  })

  it('leaves a special token in a text alone unless asked', () => {
    expect(ids(tokenizer, 'a</s>b', plain)).not.toContain(1)
    expect(tokenizer.decode(tokenizer.encode('a</s>b'))).toBe('a</s>b')
    expect(ids(tokenizer, 'a</s>b', parse)).toEqual([
      ...ids(tokenizer, 'a', plain),
      1,
      ...ids(tokenizer, 'b', plain),
    ])
    expect(ids(tokenizer, '</s></s>', parse)).toEqual([1, 1])
  })

  it('never makes <unk>: unknown characters become their bytes', () => {
    expect(ids(tokenizer, '\u{1F9FF}', plain)).toEqual([
      261,
      ...[0xf0, 0x9f, 0xa7, 0xbf].map((byte) => byte + 5),
    ])
  })

  it('reads a lone surrogate as U+FFFD, and NUL as a character', () => {
    expect(ids(tokenizer, 'a\ud800b')).toEqual(ids(tokenizer, 'a\ufffdb'))
    expect(tokenizer.decode(tokenizer.encode('a\0b'))).toBe('a\0b')
  })

  it('decodes invalid bytes to U+FFFD, one each', () => {
    const bytes = (...values: number[]) => values.map((value) => value + 5)
    expect(tokenizer.decode(bytes(0xe3, 0x81))).toBe('\ufffd\ufffd')
    expect(tokenizer.decode([...bytes(0xe3), 261, ...bytes(0x81, 0x82)])).toBe('\ufffd \ufffd\ufffd')
    expect(tokenizer.decode(bytes(0xed, 0xa0, 0x80))).toBe('\ufffd\ufffd\ufffd')
    expect(tokenizer.decode(bytes(0xe3, 0x81, 0x82))).toBe('あ')
  })

  it('shows special tokens with skipSpecial: false', () => {
    const text = tokenizer.encode('of')
    expect(tokenizer.decode([...text, 1])).toBe('of')
    expect(tokenizer.decode([...text, 1], { skipSpecial: false })).toBe('<pad> of</s>')
    expect(tokenizer.decode([2])).toBe(' \u2047 ')
    expect(tokenizer.decode([2], { skipSpecial: false })).toBe('<unk>')
  })

  it('decodes the padding rows after the vocabulary to nothing, and refuses what is no id', () => {
    expect(tokenizer.decode([4096, 2 ** 31 - 1])).toBe('')
    for (const bad of [-1, 1.5, NaN, 2 ** 31]) {
      expect(() => tokenizer.decode([bad])).toThrow(
        expect.objectContaining({ code: 'ERR_OPENMOE_INVALID_ARG' }),
      )
    }
    expect(() => tokenizer.decode(new Int32Array([-1]))).toThrow(/ids\[0\] is -1/)
    expect(() => tokenizer.encode(7 as never)).toThrow(/text is number/)
  })

  it('translates between ids and pieces', () => {
    for (let id = 0; id < tokenizer.vocabSize; id++)
      expect(tokenizer.pieceToId(tokenizer.idToPiece(id)!)).toBe(id)
    expect(tokenizer.idToPiece(4096)).toBeUndefined()
    expect(tokenizer.idToPiece(-1)).toBeUndefined()
    expect(tokenizer.pieceToId('no such piece')).toBeUndefined()
  })

  it('gives back any well-formed text: this model normalises nothing', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text.replaceAll('\u2581', ' '))
      }),
    )
  })
})

it('gives the same ids from both files for any text', async () => {
  const bytes = readFileSync(join(nfkc, 'spiece.model'))
  const pairs = [
    [fromSpiece, fromJson],
    [await loadOnly(nfkc, 'spiece.model'), await loadFiles({ 'tokenizer.json': toTokenizerJson(bytes) })],
  ] as const
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.boolean(), (text, parseSpecial) => {
      for (const [a, b] of pairs)
        expect(a.encode(text, { parseSpecial })).toEqual(b.encode(text, { parseSpecial }))
    }),
  )
})

describe('a model that normalises', async () => {
  const tokenizer = await loadOnly(nfkc, 'spiece.model')

  it('changes nothing more in a text that it has normalised once', () => {
    const normalise = (text: string) => tokenizer.decode(tokenizer.encode(text))
    expect(normalise('  ﬁne\u3000① ｶﾞ e\u0301 ')).toBe('fine 1 ガ é')
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        const once = normalise(text)
        expect(normalise(once)).toBe(once)
      }),
    )
  })

  it('keeps user-defined symbols whole', () => {
    expect(tokenizer.encode('a<sep>b')).toContain(tokenizer.pieceToId('<sep>'))
    expect(tokenizer.decode(tokenizer.encode('⑲⑳'))).toBe('19⑳')
  })
})

describe('sentinels and special tokens', () => {
  const model = writeSpiece({ pieces: [...basePieces(true), { text: '▁', score: -1 }], byteFallback: true })
  const names = Array.from({ length: 300 }, (_, i) => `<extra_id_${i}>`)
  const load = (config: object, map?: object) =>
    loadFiles({
      'spiece.model': model,
      'tokenizer_config.json': config,
      ...(map && { 'special_tokens_map.json': map }),
    })

  it.each([
    ['extra_ids', { extra_ids: 300 }, undefined],
    ['additional_special_tokens', { additional_special_tokens: names }, undefined],
    ['special_tokens_map.json', { extra_ids: 0 }, { additional_special_tokens: names }],
  ])('follow the pieces, highest first, when declared by %s', async (_, config, map) => {
    const tokenizer = await load(config, map)
    expect(tokenizer.vocabSize).toBe(260 + 300)
    expect(tokenizer.pieceToId('<extra_id_299>')).toBe(260)
    expect(tokenizer.pieceToId('<extra_id_0>')).toBe(559)
    expect(ids(tokenizer, '<extra_id_3>', parse)).toEqual([556])
    expect(ids(tokenizer, '<extra_id_3>', plain)).not.toContain(556)
    expect(tokenizer.decode([556])).toBe('')
    expect(tokenizer.decode([556], { skipSpecial: false })).toBe('<extra_id_3>')
  })

  it('get the ids that added_tokens_decoder gives', async () => {
    const added = { 260: { content: '<a>', special: true }, 262: { content: '<b>', special: false } }
    const tokenizer = await load({ added_tokens_decoder: added })
    expect(ids(tokenizer, '<b><a>', parse)).toEqual([262, 260])
    expect(tokenizer.decode([260, 261, 262])).toBe('<b>')
  })

  it('are those of the model when no file declares any', async () => {
    const tokenizer = await loadFiles({ 'spiece.model': model })
    expect(tokenizer.vocabSize).toBe(260)
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.padId, tokenizer.unkId]).toEqual([0, 1, 0, 2])
    expect(ids(tokenizer, '</s>', parse)).toEqual([1])
  })

  it('obey add_bos_token and add_eos_token', async () => {
    const tokenizer = await load({
      add_bos_token: false,
      add_eos_token: true,
      eos_token: { content: '</s>' },
    })
    expect(ids(tokenizer, '')).toEqual([1])
  })

  it('take their blanks along when they say so', async () => {
    const tokenizer = await load({
      added_tokens_decoder: { 260: { content: '<a>', lstrip: true, rstrip: true } },
    })
    expect(ids(tokenizer, ' <a> ', parse)).toEqual([260])
  })

  it('start a text with pad in a T5 tokenizer, whatever bos_token says', async () => {
    expect((await load({ tokenizer_class: 'T5Tokenizer', bos_token: '</s>' })).bosId).toBe(0)
    expect((await load({ bos_token: '</s>' })).bosId).toBe(1)
  })

  it('prefers the longest at one place', async () => {
    const tokenizer = await load({ additional_special_tokens: ['<x', '<x>'] })
    expect(ids(tokenizer, '<x><x', parse).map((id) => tokenizer.idToPiece(id))).toEqual(['<x>', '<x'])
  })

  it('finds the chat template, alone or in a list', async () => {
    expect((await load({ chat_template: 'T' })).chatTemplate).toBe('T')
    const list = [
      { name: 'tools', template: 'A' },
      { name: 'default', template: 'B' },
    ]
    expect((await load({ chat_template: list })).chatTemplate).toBe('B')
  })
})

it('prefers spiece.model, and says what is missing', async () => {
  expect((await loadFiles({ 'spiece.model': spiece, 'tokenizer.json': '{' })).vocabSize).toBe(4096)
  await expect(loadFiles({})).rejects.toThrow(/neither spiece.model nor tokenizer.json/)
})

it('merges a run of unknown characters into one <unk> without byte fallback', async () => {
  const model = writeSpiece({
    pieces: [...basePieces(false), { text: '▁', score: -1 }, { text: 'a', score: -2 }],
  })
  const tokenizer = await loadFiles({ 'spiece.model': model })
  expect(ids(tokenizer, 'xyzaxy', plain)).toEqual([3, 2, 4, 2])
})
