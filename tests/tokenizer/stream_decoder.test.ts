import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { loadOnly, nfkc, tiny } from './folders.ts'

describe.each([
  ['openmoe-tiny', tiny],
  ['a model that removes blanks', nfkc],
])('StreamDecoder of %s', async (_, folder) => {
  const tokenizer = await loadOnly(folder, 'spiece.model')
  const firstByte = tokenizer.pieceToId('<0x00>')!
  const anyId = fc.oneof(
    { weight: 3, arbitrary: fc.nat(tokenizer.vocabSize + 2) },
    { weight: 3, arbitrary: fc.nat(255).map((byte) => firstByte + byte) },
    { weight: 1, arbitrary: fc.constantFrom(0, 1, 2, tokenizer.pieceToId('▁')!) },
  )
  // bytes of real characters cut anywhere, so that unfinished characters are common
  const cutText = fc.tuple(fc.string({ unit: 'binary' }), fc.nat(20), fc.nat(20)).map(([text, from, to]) => {
    const bytes = [...Buffer.from(text)].map((byte) => firstByte + byte)
    return bytes.slice(from, Math.max(from, bytes.length - to))
  })
  const anyIds = fc.oneof(
    fc.array(anyId),
    cutText,
    fc.tuple(cutText, fc.array(anyId), cutText).map((a) => a.flat()),
  )

  it('gives together what decode() gives, for any ids', () => {
    fc.assert(
      fc.property(anyIds, fc.boolean(), (ids, skipSpecial) => {
        const decoder = tokenizer.decoder({ skipSpecial })
        const text = ids.map((id) => decoder.push(id)).join('') + decoder.flush()
        expect(text).toBe(tokenizer.decode(ids, { skipSpecial }))
      }),
      { numRuns: 500 },
    )
  })

  it('takes ids in groups of any size', () => {
    fc.assert(
      fc.property(fc.array(anyIds), (groups) => {
        const decoder = tokenizer.decoder()
        const text = groups.map((ids) => decoder.push(ids)).join('') + decoder.flush()
        expect(text).toBe(tokenizer.decode(groups.flat()))
      }),
    )
  })

  it('never emits half a character', () => {
    const decoder = tokenizer.decoder()
    const emitted = [...Buffer.from('é漢😀')].map((byte) => decoder.push(firstByte + byte))
    expect(emitted).toEqual(['', 'é', '', '', '漢', '', '', '', '😀'])
    expect(decoder.flush()).toBe('')
  })

  it('emits U+FFFD for a character that stays unfinished, at flush or at the next piece', () => {
    const decoder = tokenizer.decoder()
    expect(decoder.push(firstByte + 0xe6)).toBe('')
    expect(decoder.flush()).toBe('\ufffd')
    expect(decoder.push([firstByte + 0xe6, firstByte + 0xbc])).toBe('')
    expect(decoder.push(tokenizer.pieceToId('▁')!)).toBe('\ufffd\ufffd ')
  })

  it('starts a new text after flush', () => {
    const decoder = tokenizer.decoder()
    const ids = tokenizer.encode('the end')
    expect(decoder.push(ids) + decoder.flush()).toBe('the end')
    expect(decoder.push(ids) + decoder.flush()).toBe('the end')
  })

  it('refuses what is no id', () => {
    expect(() => tokenizer.decoder().push(-1)).toThrow(
      expect.objectContaining({ code: 'ERR_OPENMOE_INVALID_ARG' }),
    )
  })
})
