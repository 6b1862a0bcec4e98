import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { Tokenizer } from '../../lib/tokenizer/tokenizer.ts'
import { loadOnly, nfkc, tiny } from './folders.ts'
import { basePieces, writeSpiece } from './spiece_file.ts'

function milliseconds(body: () => unknown): number {
  const start = performance.now()
  body()
  return performance.now() - start
}

it('encodes a long run of one character in linear time', async () => {
  for (const tokenizer of [await loadOnly(tiny, 'spiece.model'), await loadOnly(nfkc, 'spiece.model')]) {
    for (const unit of ['a', ' ', '漢', '<', '\u0301', '</s>']) {
      const text = unit.repeat(100_000)
      expect(milliseconds(() => tokenizer.encode(text, { parseSpecial: true }))).toBeLessThan(1000)
    }
  }
})

it('loads a vocabulary of 256,000 pieces at once', async () => {
  const alphabet = [
    ...'etaoinshrdlucmfwypvbgkjqxz',
    ...'éüñçабвгдежзийклмнопрстأبتثجقरकगनमय',
    ...'的一是不了人我在有他这中大来上国ーるのに',
  ]
  let state = 1
  const random = (n: number) =>
    Math.floor(((state = (Math.imul(state, 1103515245) + 12345) >>> 0) / 2 ** 32) * n)
  const words = new Set<string>(['▁'])
  while (words.size < 256_000 - 259) {
    const start = random(alphabet.length)
    const length = 1 + random(9)
    // neighbouring letters mostly, so that pieces share beginnings as real ones do
    const letters = Array.from({ length }, () => alphabet[(start + random(24)) % alphabet.length]!)
    words.add((random(2) ? '▁' : '') + letters.join(''))
  }
  const pieces = [...words].map((text, i) => ({ text, score: -Math.log(i + 2) }))
  const folder = mkdtempSync(join(tmpdir(), 'openmoe-tokenizer-'))
  try {
    const bytes = writeSpiece({ pieces: [...basePieces(true), ...pieces], byteFallback: true })
    writeFileSync(join(folder, 'spiece.model'), bytes)
    writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify({ extra_ids: 300 }))
    const start = performance.now()
    const tokenizer = await Tokenizer.load(folder)
    const took = performance.now() - start
    console.log(`256,000 pieces (${(bytes.length / 1e6).toFixed(1)} MB) loaded in ${took.toFixed(0)} ms`)

    expect(took).toBeLessThan(2000) // about 150 ms on a free machine; the bound is for a busy one
    expect(tokenizer.vocabSize).toBe(256_300)
    expect(tokenizer.pieceToId('<extra_id_0>')).toBe(256_299)
    for (let id = 259; id < 256_000; id += 997) expect(tokenizer.pieceToId(tokenizer.idToPiece(id)!)).toBe(id)
  } finally {
    rmSync(folder, { recursive: true })
  }
})
