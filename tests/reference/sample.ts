// The sampler in f64, by sorting whatever has to be ordered.

export interface SampleRow {
  logits: ArrayLike<number>
  vocabLimit?: number
  prompt?: number[]
  output?: number[]
  bias?: [id: number, value: number][]
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  repetitionPenalty?: number
  frequencyPenalty?: number
  presencePenalty?: number
}

export interface Candidate {
  id: number
  probability: number
}

function penalised(row: SampleRow): number[] {
  const { prompt = [], output = [], bias = [] } = row
  const { repetitionPenalty = 1, frequencyPenalty = 0, presencePenalty = 0 } = row
  const scores = Array.from(row.logits).slice(0, row.vocabLimit || undefined)
  const inside = (id: number) => id >= 0 && id < scores.length
  for (const id of new Set([...prompt, ...output].filter(inside))) {
    scores[id]! *= scores[id]! > 0 ? 1 / repetitionPenalty : repetitionPenalty
  }
  for (const id of output.filter(inside)) scores[id]! -= frequencyPenalty
  for (const id of new Set(output.filter(inside))) scores[id]! -= presencePenalty
  for (const [id, value] of bias) if (inside(id)) scores[id]! += value
  return scores
}

/** The largest score, the lowest id on ties. */
export function greedy(row: SampleRow): number {
  const scores = penalised(row)
  let best = 0
  for (let id = 1; id < scores.length; id++) if (scores[id]! > scores[best]!) best = id
  return best
}

/** What may be drawn, best first, with probabilities that add up to 1. */
export function candidates(row: SampleRow): Candidate[] {
  const { temperature = 1, topK = 0, topP = 1, minP = 0 } = row
  const scores = penalised(row)
  const best = scores.reduce((a, b) => Math.max(a, b), -Infinity)
  let left = scores
    .map((score, id) => ({ id, score, probability: Math.exp((score - best) / temperature) }))
    .filter(({ probability }) => probability > 0)
    .sort((a, b) => b.score - a.score || a.id - b.id)
  if (topK > 0) left = left.slice(0, topK)
  const total = left.reduce((sum, c) => sum + c.probability, 0)
  let before = 0
  if (topP < 1) {
    left = left.filter((c, i) => {
      const isNeeded = i === 0 || before < topP * total
      before += c.probability
      return isNeeded
    })
  }
  left = left.filter((c) => c.probability >= minP * left[0]!.probability)
  const kept = left.reduce((sum, c) => sum + c.probability, 0)
  return left.map(({ id, probability }) => ({ id, probability: probability / kept }))
}

/**
 * The candidate on which `u` falls, and how far `u` is from the neighbours' share: below 1e-5 or so f32 may fall on the
 * other side.
 */
export function pick(among: readonly Candidate[], u: number): { id: number; margin: number } {
  let before = 0
  for (const { id, probability } of among) {
    if (u <= before + probability) return { id, margin: Math.min(u - before, before + probability - u) }
    before += probability
  }
  return { id: among.at(-1)!.id, margin: 0 }
}

export function logSoftmax(logits: ArrayLike<number>, vocabLimit?: number): number[] {
  const z = Array.from(logits).slice(0, vocabLimit || undefined)
  const best = z.reduce((a, b) => Math.max(a, b), -Infinity)
  const sum = z.reduce((total, x) => total + Math.exp(x - best), 0)
  return z.map((x) => x - best - Math.log(sum))
}

/** Philox4x32-10 on bigints: the first 53 of its 128 bits, as a number in [0, 1). */
export function uniform(seed: bigint, choice: number, position: number): number {
  const mask = 0xffffffffn
  let [a, b, c, d] = [BigInt(position) & mask, BigInt(choice) & mask, 0n, 0n]
  let [k0, k1] = [seed & mask, (seed >> 32n) & mask]
  for (let round = 0; round < 10; round++) {
    const [x, y] = [0xd2511f53n * a, 0xcd9e8d57n * c]
    ;[a, b, c, d] = [(y >> 32n) ^ b ^ k0, y & mask, (x >> 32n) ^ d ^ k1, x & mask]
    k0 = (k0 + 0x9e3779b9n) & mask
    k1 = (k1 + 0xbb67ae85n) & mask
  }
  return Number(((a << 32n) | b) >> 11n) / 2 ** 53
}
