import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { TextStream } from '../../lib/generate/text_stream.ts'
import { pieceDecoder } from '../support/scripted_engine.ts'
import { tinyModel } from '../support/tiny_model.ts'

/** What a stream over these pieces shows, piece by piece. */
function show(pieces: readonly string[], stops: readonly string[]): { chunks: string[]; stopped: boolean } {
  const stream = new TextStream(pieceDecoder(pieces), stops)
  const chunks: string[] = []
  for (const id of pieces.keys()) {
    const { text, stopped } = stream.push(id)
    chunks.push(text)
    if (stopped) break
  }
  const { text, stopped } = stream.finish()
  chunks.push(text)
  return { chunks, stopped }
}

const cut = (text: string, at: readonly number[]): string[] => {
  const places = [0, ...new Set(at.map((n) => n % (text.length + 1)))].sort((a, b) => a - b)
  return places.map((begin, i) => text.slice(begin, places[i + 1]))
}

// A small alphabet makes stop strings overlap with the text and with each other.
const word = (minLength: number, maxLength: number) =>
  fc.string({ unit: fc.constantFrom('a', 'b', 'c', 'é', '😀'), minLength, maxLength })
const text = word(0, 40)
const stops = fc.array(word(1, 5), { maxLength: 4 })
const cuts = fc.array(fc.nat(), { maxLength: 12 })
const RUNS = { numRuns: 2000 }

describe('TextStream', () => {
  it('shows everything, chunk by chunk, without stop strings', () => {
    expect(show(['He', 'll', 'o'], []).chunks).toEqual(['He', 'll', 'o', ''])
  })

  it('cuts at a stop string and says so', () => {
    expect(show(['one ', 'two', ' three'], ['two'])).toEqual({ chunks: ['one ', '', ''], stopped: true })
  })

  it('holds back what may become a stop string, and gives it when it does not', () => {
    expect(show(['a<', '/', 's', 'x'], ['</s>']).chunks).toEqual(['a', '', '', '</sx', ''])
  })

  it('flushes what it held at the end', () => {
    expect(show(['a', '</s'], ['</s>'])).toEqual({ chunks: ['a', '', '</s'], stopped: false })
  })

  it('shows nothing after a stop string', () => {
    const stream = new TextStream(pieceDecoder(['x', 'STOP', 'y']), ['STOP'])
    expect([0, 1, 2].map((id) => stream.push(id).text)).toEqual(['x', '', ''])
    expect(stream.finish()).toEqual({ text: '', stopped: true })
  })

  it('stops at the string that is complete first, the longest of those that end together', () => {
    expect(show(['xabcy'], ['abcy', 'b']).chunks.join('')).toBe('xa')
    expect(show(['xabc'], ['bc', 'abc']).chunks.join('')).toBe('x')
  })

  it('never loses or invents text (P3)', () => {
    fc.assert(
      fc.property(text, cuts, stops, (whole, at, list) => {
        const { chunks, stopped } = show(cut(whole, at), list)
        const shown = chunks.join('')
        expect(whole.startsWith(shown)).toBe(true)
        if (!stopped) expect(shown).toBe(whole)
        else expect(list.some((stop) => whole.startsWith(stop, shown.length))).toBe(true)
      }),
      RUNS,
    )
  })

  it('never shows a stop string or a part of the one that ended it, wherever tokens cut it (P4)', () => {
    fc.assert(
      fc.property(text, stops, cuts, (whole, list, at) => {
        const { chunks, stopped } = show(cut(whole, at), list)
        const shown = chunks.join('')
        for (const stop of list) expect(shown.includes(stop)).toBe(false)
        expect(stopped).toBe(list.some((stop) => whole.includes(stop)))
        // and the same for every cut: one token, or one per character
        expect(show([whole], list).chunks.join('')).toBe(shown)
        expect(show([...whole], list).chunks.join('')).toBe(shown)
      }),
      RUNS,
    )
  })

  it('holds back no more than it must', () => {
    fc.assert(
      fc.property(text, cuts, stops, (whole, at, list) => {
        const stream = new TextStream(pieceDecoder(cut(whole, at)), list)
        let given = ''
        let shown = ''
        for (const [id, piece] of cut(whole, at).entries()) {
          given += piece
          const { text: more, stopped } = stream.push(id)
          shown += more
          if (stopped) return
          const held = given.slice(shown.length)
          expect(held === '' || list.some((stop) => stop.startsWith(held))).toBe(true)
        }
      }),
      RUNS,
    )
  })
})

describe('TextStream over the tokenizer', () => {
  const model = tinyModel()

  it('concatenates to what decode() gives, for any ids, and never shows half a character (P3)', () => {
    const { tokenizer } = model()
    const ids = fc.array(fc.integer({ min: 0, max: tokenizer.vocabSize - 1 }), { maxLength: 40 })
    // byte pieces, so that characters are cut by tokens
    const bytes = fc
      .string({ unit: 'binary', maxLength: 12 })
      .map((characters) => [...Buffer.from(characters)].map((b) => tokenizer.pieceToId(byteName(b))!))
    fc.assert(
      fc.property(fc.oneof(ids, bytes), (sequence) => {
        const stream = new TextStream(tokenizer.decoder(), [])
        const chunks = sequence.map((id) => stream.push(id).text)
        const all = chunks.join('') + stream.finish().text
        const whole = tokenizer.decode(sequence)
        expect(all).toBe(whole)
        if (!whole.includes('\ufffd')) expect(chunks.join('')).not.toContain('\ufffd')
      }),
      { numRuns: 1000 },
    )
  })
})

const byteName = (byte: number): string => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`
