/** Against SentencePiece itself: tests/golden/tokenizer.json, made by scripts/tokenizer-golden.sh. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { Tokenizer } from '../../lib/tokenizer/tokenizer.ts'
import { loadFiles, loadOnly, nfkc, root, shared, tiny, toTokenizerJson } from './folders.ts'

interface Golden {
  models: {
    folder: string
    encode: { text: string; ids: number[]; decoded: string }[]
    decode: { ids: number[]; text: string }[]
  }[]
}

const golden = JSON.parse(readFileSync(join(root, 'tests/golden/tokenizer.json'), 'utf8')) as Golden
const nfkcBytes = readFileSync(join(nfkc, 'spiece.model'))
const tokenizers: Record<string, Record<string, Tokenizer>> = {
  'models/openmoe-tiny': {
    'spiece.model': await loadOnly(tiny, 'spiece.model'),
    'tokenizer.json': await loadOnly(tiny, 'tokenizer.json'),
  },
  'tests/golden/tokenizer_nfkc': {
    'spiece.model': await loadOnly(nfkc, 'spiece.model'),
    'tokenizer.json': await loadFiles({ 'tokenizer.json': toTokenizerJson(nfkcBytes) }),
  },
}

for (const { folder, encode, decode } of golden.models) {
  describe.each(Object.entries(tokenizers[folder]!))(`${folder} from %s`, (_, tokenizer) => {
    it('encodes every line like spm_encode', () => {
      expect(encode.length).toBeGreaterThan(100)
      for (const { text, ids } of encode) {
        expect([...tokenizer.encode(text, { addSpecial: false })], JSON.stringify(text)).toEqual(ids)
      }
    })

    it('decodes the ids of every line like spm_decode', () => {
      for (const { text, ids, decoded } of encode)
        expect(tokenizer.decode(ids), JSON.stringify(text)).toBe(decoded)
    })

    it('decodes random ids, byte pieces among them, like spm_decode', () => {
      for (const { ids, text } of decode) expect(tokenizer.decode(ids)).toBe(text)
    })
  })
}

const vectorsFile = join(shared, 'models/openmoe-tiny/tokenizer_vectors.json')
const noVectors = existsSync(vectorsFile) ? '' : ` (skipped: no ${vectorsFile}, set OPENMOE_SHARED)`
if (noVectors) console.warn(`tokenizer vectors${noVectors}`)

describe.skipIf(noVectors)(`the vectors that came with openmoe-tiny${noVectors}`, () => {
  const { vectors } = noVectors
    ? { vectors: [] }
    : (JSON.parse(readFileSync(vectorsFile, 'utf8')) as {
        vectors: { text: string; ids: number[]; decoded: string }[]
      })

  it.each(['spiece.model', 'tokenizer.json'] as const)('all agree with %s', (file) => {
    const tokenizer = tokenizers['models/openmoe-tiny']![file]!
    expect(vectors.length).toBeGreaterThanOrEqual(200)
    for (const { text, ids, decoded } of vectors) {
      expect([...tokenizer.encode(text, { addSpecial: false })]).toEqual(ids)
      expect([...tokenizer.encode(text)]).toEqual([0, ...ids])
      expect(tokenizer.decode(ids)).toBe(decoded)
    }
  })
})
