import { expect, it } from 'vitest'
import type { Program } from '../../lib/program.ts'
import { sample, type SampleParams, writeSampleRow } from '../../lib/ops/sample.ts'
import { type HostTensor, tensor } from '../../lib/tensor.ts'
import { candidates, greedy, logSoftmax, pick, type SampleRow, uniform } from '../reference/sample.ts'
import { expectError } from '../support/expect_error.ts'
import { expectSameBits, rows, runWithThreads } from '../support/op_fixture.ts'
import { describeOp, f32, i32, random, randomTensor } from './describe_op.ts'

/** One row: what the reference takes, and what it draws with. */
type Row = SampleRow & Pick<SampleParams, 'seed' | 'choice' | 'position' | 'forcedId'>
interface Options {
  vocabLimit?: number
  numTop?: number
}

/** The operands of `sample` for rows over the same vocabulary. */
function operands(batch: readonly Row[]) {
  const vocab = batch[0]!.logits.length
  const logits = new Float32Array(batch.length * vocab)
  const floats = new Float32Array(batch.length * 6)
  const ints = new Int32Array(batch.length * 9)
  const maxHistory = Math.max(0, ...batch.map((r) => (r.prompt?.length ?? 0) + (r.output?.length ?? 0)))
  const maxBias = Math.max(0, ...batch.map((r) => r.bias?.length ?? 0))
  const history = new Int32Array(batch.length * maxHistory).fill(-7)
  const biasIds = new Int32Array(batch.length * maxBias).fill(-7)
  const biasValues = new Float32Array(batch.length * maxBias).fill(NaN)
  batch.forEach((row, i) => {
    const { prompt = [], output = [], bias = [] } = row
    logits.set(row.logits, i * vocab)
    history.set([...prompt, ...output], i * maxHistory)
    biasIds.set(bias.map(([id]) => id), i * maxBias) // prettier-ignore
    biasValues.set(bias.map(([, value]) => value), i * maxBias) // prettier-ignore
    const lengths = {
      historyLength: prompt.length + output.length,
      promptLength: prompt.length,
      numBias: bias.length,
    }
    writeSampleRow(floats, ints, i, { ...row, ...lengths })
  })
  return {
    logits: tensor(logits, [batch.length, vocab]),
    floats: tensor(floats, [batch.length, 6]),
    ints: tensor(ints, [batch.length, 9]),
    history: maxHistory ? tensor(history, [batch.length, maxHistory]) : undefined,
    biasIds: maxBias ? tensor(biasIds, [batch.length, maxBias]) : undefined,
    biasValues: maxBias ? tensor(biasValues, [batch.length, maxBias]) : undefined,
  }
}

const record =
  (operand: ReturnType<typeof operands>, options: Options = {}) =>
  (p: Program) => {
    const { token, logprob, topIds, topLogprobs } = sample(p, operand.logits, operand, options)
    return { token, logprob: logprob!, ...(topIds && topLogprobs && { topIds, topLogprobs }) }
  }

/** Sharp enough to matter, flat enough for every option to cut something. */
const randomLogits = (seed: number, vocab: number, scale = 2) =>
  randomTensor(seed, [vocab], scale).data as Float32Array

/** Positions that a draw of the reference does not leave to rounding. */
const isClear = (margin: number) => margin > 1e-6

/** Chance of a chi-square statistic as large as this (Wilson and Hilferty's normal approximation, then erfc). */
function chiSquareTail(statistic: number, freedom: number): number {
  const z = (Math.cbrt(statistic / freedom) - (1 - 2 / (9 * freedom))) / Math.sqrt(2 / (9 * freedom))
  const x = Math.abs(z) / Math.SQRT2
  const t = 1 / (1 + 0.3275911 * x)
  const poly =
    t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
  const half = (poly * Math.exp(-x * x)) / 2
  return z > 0 ? half : 1 - half
}

const MIXES: [string, SampleRow | Record<string, never>][] = [
  ['nothing', {}],
  ['temperature 0.5', { temperature: 0.5 }],
  ['temperature 2 and top-k 20', { temperature: 2, topK: 20 }],
  ['top-p 0.9', { topP: 0.9 }],
  ["the authors' 0.5 and 0.8", { temperature: 0.5, topP: 0.8 }],
  ['min-p 0.05', { minP: 0.05 }],
  ['top-k 100, top-p 0.95 and min-p 0.01', { temperature: 1.3, topK: 100, topP: 0.95, minP: 0.01 }],
  [
    'penalties and biases',
    {
      temperature: 0.9,
      topP: 0.95,
      prompt: [1, 2, 3, 3, 250],
      output: [3, 4, 4, 4, 5, 900, -1],
      repetitionPenalty: 1.3,
      frequencyPenalty: 0.4,
      presencePenalty: 0.3,
      bias: [[4, 3], [7, -Infinity], [2, -1], [900, 5], [4, 0.5]], // prettier-ignore
    },
  ],
] as [string, SampleRow][]

describeOp('sample', ({ backend, run }) => {
  const draw = async (batch: readonly Row[], options: Options = {}) => {
    const { token, logprob } = await run(record(operands(batch), options))
    return { tokens: [...token.data], logprobs: [...logprob.data] }
  }
  const one = async (row: Row, options?: Options) => (await draw([row], options)).tokens[0]!

  it('takes the largest logit at temperature 0, the lowest id on ties', async () => {
    const batch = [[1, 3, 2, 3], [-2, -2, -2, -2], [-0, 0, -0, 0], [-9, -8, -7, -6]].map((logits) => ({ logits, temperature: 0 })) // prettier-ignore
    expect((await draw(batch)).tokens).toEqual([1, 0, 0, 3])
  })

  it.each([1, 7, 8, 255, 256, 257, 8192, 8193, 70001])('finds the largest of %i logits', async (vocab) => {
    for (const at of [0, vocab >> 1, vocab - 1]) {
      const logits = randomLogits(vocab, vocab)
      logits[at] = 50
      if (at < vocab - 1) logits[vocab - 1] = 50
      expect(await one({ logits, temperature: 0 })).toBe(at)
    }
  })

  it('masks the ids from vocab_limit on; 0 and more than there are mask none', async () => {
    const row = { logits: [1, 2, 9], temperature: 0 }
    for (const [vocabLimit, token] of [
      [2, 1],
      [1, 0],
      [3, 2],
      [0, 2],
      [-5, 2],
      [99, 2],
    ] as const) {
      // prettier-ignore
      expect(await one(row, { vocabLimit })).toBe(token)
    }
    const { logprobs } = await draw([row], { vocabLimit: 2 })
    expect(logprobs[0]).toBeCloseTo(logSoftmax([1, 2])[1]!, 6)
    expect(await one({ ...row, logits: [1, 2, NaN] }, { vocabLimit: 2 })).toBe(1)
  })

  it('divides positive and multiplies negative logits of prompt and output by the repetition penalty, once', async () => {
    const seen = { prompt: [0, 0], output: [0, 1], repetitionPenalty: 2, temperature: 0 }
    expect(await one({ ...seen, logits: [4, 0, 1.9] })).toBe(0)
    expect(await one({ ...seen, logits: [4, 0, 2.1] })).toBe(2)
    expect(await one({ ...seen, logits: [-4, -1, -1.9] })).toBe(2)
    expect(await one({ ...seen, logits: [-4, -1, -2.1] })).toBe(1)
  })

  it('charges frequency per occurrence and presence once, for output alone', async () => {
    const row = { prompt: [0, 0, 0], output: [1, 1], temperature: 0 }
    expect(await one({ ...row, logits: [0, 0.9, -9], frequencyPenalty: 0.5 })).toBe(0)
    expect(await one({ ...row, logits: [0, 1.1, -9], frequencyPenalty: 0.5 })).toBe(1)
    expect(await one({ ...row, logits: [0, 0.4, -9], presencePenalty: 0.5 })).toBe(0)
    expect(await one({ ...row, logits: [0, 0.6, -9], presencePenalty: 0.5 })).toBe(1)
  })

  it('adds biases after the penalties, bans with -Infinity, and ignores ids that do not exist', async () => {
    const row = { logits: [4, 1, 0], temperature: 0, prompt: [0], repetitionPenalty: 2 }
    expect(await one({ ...row, bias: [[1, 1.1]] })).toBe(1) // 4 / 2 + 0 against 1 + 1.1
    expect(await one({ ...row, bias: [[0, 2], [1, 2.9]] })).toBe(0) // prettier-ignore
    expect(await one({ ...row, bias: [[0, -Infinity], [1, -Infinity]] })).toBe(2) // prettier-ignore
    expect(await one({ ...row, bias: [[-1, 99], [3, 99], [2 ** 31 - 1, 99]], output: [-1, 3, 2 ** 31 - 1] })).toBe(0) // prettier-ignore
  })

  it('draws only the k best with top-k, ties going to the lowest ids', async () => {
    const batch = Array.from({ length: 400 }, (_, position) => ({ logits: [1, 1, 1, 1, 0.9], temperature: 5, topK: 3, position })) // prettier-ignore
    expect(new Set((await draw(batch)).tokens)).toEqual(new Set([0, 1, 2]))
    expect(await one({ logits: [1, 5, 5], temperature: 9, topK: 1 })).toBe(1)
  })

  it('draws only the smallest set that holds top-p, and always at least one', async () => {
    const logits = [0.4, 0.3, 0.2, 0.1].map(Math.log)
    for (const [topP, size] of [
      [0.69, 2],
      [0.71, 3],
      [0.35, 1],
      [0, 1],
      [0.999, 4],
    ] as const) {
      // prettier-ignore
      const batch = Array.from({ length: 400 }, (_, position) => ({ logits, temperature: 1, topP, position }))
      expect(new Set((await draw(batch)).tokens), `${topP}`).toEqual(new Set([0, 1, 2, 3].slice(0, size)))
    }
  })

  it('draws only what has min-p of the best probability', async () => {
    const logits = [0.4, 0.3, 0.2, 0.1].map(Math.log)
    for (const [minP, size] of [
      [0.24, 4],
      [0.26, 3],
      [0.74, 2],
      [0.76, 1],
      [1, 1],
      [7, 1],
    ] as const) {
      // prettier-ignore
      const batch = Array.from({ length: 400 }, (_, position) => ({ logits, temperature: 1, minP, position }))
      expect(new Set((await draw(batch)).tokens), `${minP}`).toEqual(new Set([0, 1, 2, 3].slice(0, size)))
    }
  })

  it.each(MIXES)('takes the very token of the reference, with %s', async (_, options) => {
    for (const [vocab, scale] of [
      [1, 1],
      [5, 1],
      [257, 3],
      [1000, 0.1],
      [8193, 2],
      [20000, 4],
    ] as const) {
      // prettier-ignore
      const row = { temperature: 1, ...options, logits: randomLogits(vocab, vocab, scale) }
      const among = candidates(row)
      const batch = Array.from({ length: vocab > 5000 ? 60 : 500 }, (_, position) => ({
        ...row,
        position,
        seed: 77n,
      }))
      const { tokens } = await draw(batch)
      let unclear = 0
      tokens.forEach((token, position) => {
        const { id, margin } = pick(among, uniform(77n, 0, position))
        if (isClear(margin)) expect(token, `position ${position} of ${vocab}`).toBe(id)
        else unclear++
      })
      expect(unclear).toBeLessThan(0.3 * tokens.length)
    }
  })

  it.each(MIXES)('draws 100,000 times as the reference says, with %s', async (_, options) => {
    const row = { temperature: 1, ...options, logits: randomLogits(5, 120, 1.5) }
    const among = candidates(row)
    const counts = new Map<number, number>()
    for (let seed = 0; seed < 20; seed++) {
      const batch = Array.from({ length: 5000 }, (_, position) => ({ ...row, seed, position }))
      for (const token of (await draw(batch)).tokens) counts.set(token, (counts.get(token) ?? 0) + 1)
    }
    const allowed = new Set(among.map(({ id }) => id))
    expect([...counts.keys()].filter((id) => !allowed.has(id))).toEqual([])
    let [statistic, bins, observedRest, expectedRest] = [0, 0, 0, 0]
    for (const { id, probability } of among) {
      const [observed, expected] = [counts.get(id) ?? 0, 1e5 * probability]
      if (expected < 10) {
        observedRest += observed
        expectedRest += expected
      } else {
        statistic += (observed - expected) ** 2 / expected
        bins++
      }
    }
    if (expectedRest >= 10) {
      statistic += (observedRest - expectedRest) ** 2 / expectedRest
      bins++
    }
    expect(bins).toBeGreaterThan(5)
    expect(chiSquareTail(statistic, bins - 1)).toBeGreaterThan(1e-4)
  })

  it('draws from seed, choice and position alone: neither of them repeats the others', async () => {
    const logits = new Float32Array(30000) // flat: a token is the random number itself
    const base = { logits, temperature: 1 }
    const batch = [
      ...Array.from({ length: 40 }, (_, position) => ({ ...base, position })),
      ...Array.from({ length: 40 }, (_, seed) => ({ ...base, seed: seed + 1 })),
      ...Array.from({ length: 40 }, (_, choice) => ({ ...base, choice: choice + 1 })),
      ...Array.from({ length: 40 }, (_, i) => ({ ...base, seed: BigInt(i + 1) << 32n })),
    ]
    const { tokens } = await draw(batch)
    expect(new Set(tokens).size).toBeGreaterThan(150)
    expect((await draw(batch.toReversed())).tokens.toReversed()).toEqual(tokens)
    expect(tokens[0]).toBe(Math.ceil(uniform(0n, 0, 0) * 30000) - 1)
    expect(tokens[159]).toBe(Math.ceil(uniform(40n << 32n, 0, 0) * 30000) - 1)
  })

  it('takes the same tokens where nobody asks how likely they were', async () => {
    const fine = MIXES.flatMap(([, mix], i) =>
      [0, 1].map((temperature) => ({ temperature, ...mix, logits: randomLogits(i, 9001, 3), position: i })),
    )
    const broken = [NaN, Infinity].map((value) => randomLogits(1, 9001).with(9000, value))
    const nothing = new Float32Array(9001).fill(-Infinity)
    const batch = [...fine, ...[...broken, nothing].map((logits) => ({ logits, temperature: 0 }))]
    const operand = operands(batch)
    const token = await run((p) => sample(p, operand.logits, operand, { logprobs: false }).token)
    expect([...token.data]).toEqual((await draw(batch)).tokens)
  })

  it('gives a row the same bits alone, among neighbours, twice, and with 1 or 3 threads', async () => {
    const options = { numTop: 5 }
    const batch = Array.from({ length: 14 }, (_, i) => {
      const [, mix] = MIXES[i % MIXES.length]!
      return { temperature: i % 3 ? 1 : 0, ...mix, logits: randomLogits(i, 20001, 3), position: i, seed: i }
    })
    const all = await run(record(operands(batch), options))
    const same = (other: Record<string, HostTensor>, row?: number) => {
      for (const [name, value] of Object.entries(all)) {
        expectSameBits(other[name]!.data, row === undefined ? value.data : rows(value, row, row + 1).data)
      }
    }
    same(await run(record(operands(batch), options)))
    for (const threads of [1, 3])
      same(await runWithThreads(backend, threads, record(operands(batch), options)))
    for (let i = 0; i < batch.length; i++) same(await run(record(operands([batch[i]!]), options)), i)
  })

  it('stays with the best at any tiny temperature, and never draws a banned id at a huge one', async () => {
    const logits = [3, 1e30, -1e30, 1e30, -Infinity]
    for (const temperature of [1e-6, 1e-20, 1e-44]) {
      const batch = Array.from({ length: 50 }, (_, position) => ({ logits, temperature, position }))
      const { tokens } = await draw(batch)
      expect(new Set(tokens)).toEqual(new Set([1, 3]))
      expect(await one({ logits: [1, 1.0001, -5], temperature })).toBe(1)
    }
    for (const temperature of [1e6, 1e38, Infinity]) {
      const row = {
        logits: [1, 2, -Infinity, 3, -3],
        temperature,
        bias: [[3, -Infinity]] as [number, number][],
      }
      const { tokens } = await draw(Array.from({ length: 300 }, (_, position) => ({ ...row, position })))
      expect(new Set(tokens)).toEqual(new Set([0, 1, 4]))
    }
  })

  it('reports the log-softmax of the logits as they came, whatever is done to them', async () => {
    for (const [vocab, scale] of [
      [7, 3],
      [300, 1],
      [9000, 8],
      [40000, 3],
    ] as const) {
      // prettier-ignore
      const logits = randomLogits(vocab, vocab, scale)
      const expected = logSoftmax(logits)
      const batch = MIXES.map(([, mix], position) => ({ temperature: 1, ...mix, logits, position }))
      const { tokens, logprobs } = await draw(batch)
      tokens.forEach((token, i) => expect(Math.abs(logprobs[i]! - expected[token]!)).toBeLessThan(1e-5))
    }
  })

  it('lists the most probable tokens, best first, the lower id first on ties', async () => {
    for (const vocab of [5, 300, 30000]) {
      const logits = randomLogits(vocab, vocab).map((x) => Math.round(4 * x) / 4)
      const expected = logSoftmax(logits)
      const best = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b)
      const { topIds, topLogprobs } = await run(record(operands([{ logits, temperature: 0 }]), { numTop: 5 }))
      expect([...topIds!.data]).toEqual(best.slice(0, 5))
      topLogprobs!.data.forEach((x, i) => expect(Math.abs(x - expected[best[i]!]!)).toBeLessThan(1e-5))
    }
  })

  it('fills the list up with id -1 where fewer tokens exist', async () => {
    const options = { numTop: 4, vocabLimit: 2 }
    const { topIds, topLogprobs } = await run(record(operands([{ logits: [0, 0, 9] }]), options))
    expect([...topIds!.data]).toEqual([0, 1, -1, -1])
    expect([...topLogprobs!.data].map((x) => Math.exp(x).toFixed(4))).toEqual([
      '0.5000',
      '0.5000',
      '0.0000',
      '0.0000',
    ])
  })

  it('takes a forced id whatever its probability, and -1 for one that is masked', async () => {
    const logits = [0, 5, Math.log(3), -Infinity]
    const forced = (forcedId: number) => ({ logits, forcedId, topK: 1, temperature: 0.7 })
    const { tokens, logprobs } = await draw([forced(2), forced(0), forced(3), forced(4), forced(2 ** 31 - 1)])
    expect(tokens).toEqual([2, 0, 3, -1, -1])
    expect(logprobs[0]! - logprobs[1]!).toBeCloseTo(Math.log(3), 6)
    expect(logprobs.slice(2)).toEqual([-Infinity, NaN, NaN])
    expect(await one(forced(2), { vocabLimit: 2 })).toBe(-1)
  })

  it('gives -1 for a row with NaN, with +Infinity, or with nothing to take, and leaves its neighbours alone', async () => {
    const fine = randomLogits(1, 10000)
    const broken = [NaN, Infinity].flatMap((value) => [0, 4242, 9999].map((at) => fine.with(at, value)))
    const nothing = new Float32Array(10000).fill(-Infinity)
    for (const temperature of [0, 1]) {
      const batch = [fine, ...broken, nothing, fine].map((logits) => ({ logits, temperature }))
      const { tokens, logprobs } = await draw(batch)
      expect(tokens.slice(1, -1)).toEqual(new Array(7).fill(-1))
      expect(logprobs.slice(1, -1).every(Number.isNaN)).toBe(true)
      expect(tokens[0]).toBe(await one({ logits: fine, temperature }))
      expect(tokens.at(-1)).toBe(tokens[0])
    }
    const { topIds, topLogprobs } = await run(record(operands([{ logits: nothing }]), { numTop: 2 }))
    expect([...topIds!.data, ...topLogprobs!.data]).toEqual([-1, -1, NaN, NaN])
  })

  it('gives -1 where penalties and biases leave no number, or no token', async () => {
    const row = { logits: [1, 2], temperature: 1 }
    expect(await one({ ...row, bias: [[0, NaN]] })).toBe(-1)
    expect(await one({ ...row, bias: [[1, Infinity]] })).toBe(-1)
    expect(await one({ ...row, prompt: [0], repetitionPenalty: 0 })).toBe(-1)
    expect(await one({ ...row, output: [0], frequencyPenalty: NaN })).toBe(-1)
    expect(await one({ ...row, bias: [[0, -Infinity], [1, -Infinity]] })).toBe(-1) // prettier-ignore
  })

  it('chooses among 256384 equal logits, and from a long flat distribution', async () => {
    const flat = new Float32Array(256384)
    expect(await one({ logits: flat, temperature: 0 })).toBe(0)
    const u = uniform(3n, 0, 0)
    expect(await one({ logits: flat, temperature: 1, seed: 3 })).toBe(Math.ceil(u * 256384) - 1)
    expect(await one({ logits: flat, temperature: 1, topP: 0.5, seed: 3 })).toBe(Math.ceil(u * 128192) - 1)
    expect(await one({ logits: flat, temperature: 1, topK: 1000, seed: 3 })).toBe(Math.ceil(u * 1000) - 1)
    const row = { logits: randomLogits(1, 256384, 1), temperature: 1, topP: 0.9 }
    const { tokens } = await draw([0, 1, 2].map((position) => ({ ...row, position })))
    const among = candidates(row)
    for (const position of [0, 1, 2]) {
      const { id, margin } = pick(among, uniform(0n, 0, position))
      if (isClear(margin)) expect(tokens[position]).toBe(id)
    }
  })

  it('agrees with the reference about the greedy token under random penalties', async () => {
    const next = random(9)
    const batch = Array.from({ length: 100 }, (_, i) => ({
      logits: randomLogits(i, 50, 1),
      temperature: 0,
      prompt: Array.from({ length: 20 }, () => Math.floor(60 * next()) - 5),
      output: Array.from({ length: 30 }, () => Math.floor(60 * next()) - 5),
      repetitionPenalty: 0.5 + next(),
      frequencyPenalty: next() - 0.3,
      presencePenalty: next() - 0.3,
      bias: Array.from({ length: 5 }, (): [number, number] => [Math.floor(60 * next()) - 5, 2 * next()]),
    }))
    expect((await draw(batch)).tokens).toEqual(batch.map((row) => greedy(row)))
  })

  it('survives any bits in its parameters', async () => {
    const next = random(4)
    const word = () => Math.floor(2 ** 32 * next()) | 0
    for (let trial = 0; trial < 20; trial++) {
      const batch = 64
      const ints = Int32Array.from({ length: 9 * batch }, (_, i) =>
        [word, () => 5, () => -1][word() & 1 ? 0 : 1 + (i % 2)]!(),
      )
      for (let row = 0; row < batch; row++) [ints[9 * row + 5], ints[9 * row + 7]] = [3, 2]
      const bits = (n: number) => new Float32Array(Int32Array.from({ length: n }, word).buffer)
      const logits = trial % 2 ? bits(batch * 300) : (randomTensor(trial, [batch, 300]).data as Float32Array)
      const token = await run(
        (p) =>
          sample(
            p,
            tensor(logits, [batch, 300]),
            {
              floats: tensor(bits(6 * batch), [batch, 6]),
              ints: tensor(ints, [batch, 9]),
              history: tensor(Int32Array.from({ length: 3 * batch }, word), [batch, 3]),
              biasIds: tensor(Int32Array.from({ length: 2 * batch }, word), [batch, 2]),
              biasValues: tensor(bits(2 * batch), [batch, 2]),
            },
            { vocabLimit: word() },
          ).token,
      )
      expect(token.data.every((id) => id >= -1 && id < 300)).toBe(true)
    }
  })

  it('returns nothing for no rows', async () => {
    const none = {
      logits: tensor(new Float32Array(0), [0, 8]),
      floats: f32([], [0, 6]),
      ints: i32([], [0, 9]),
    }
    expect((await run((p) => sample(p, none.logits, none).token)).data).toHaveLength(0)
  })

  it.each<[string, RegExp, Partial<SampleParams>]>([
    ['a history longer than its row', /ints\[0\] has history_length 4, expected 0 to max_history = 3/, { historyLength: 4 }], // prettier-ignore
    ['a negative history', /history_length -1, expected 0 to/, { historyLength: -1 }],
    [
      'more biases than there is room',
      /ints\[0\] has num_bias 3, expected 0 to max_bias = 2/,
      { numBias: 3 },
    ],
    ['a negative number of biases', /num_bias -2147483648, expected/, { numBias: -(2 ** 31) }],
  ])('refuses %s', async (_, message, params) => {
    const operand = operands([{ logits: [1, 2], prompt: [0, 0, 0], bias: [[0, 1], [1, 1]] }]) // prettier-ignore
    writeSampleRow(operand.floats.data as Float32Array, operand.ints.data as Int32Array, 0, params)
    await expectError(run(record(operand)), 'ERR_OPENMOE_INVALID_ARG', message)
  })

  it('refuses lengths of a history and of biases that were not given', async () => {
    for (const params of [{ historyLength: 1 }, { numBias: 1 }]) {
      const operand = operands([{ logits: [1, 2] }])
      writeSampleRow(operand.floats.data as Float32Array, operand.ints.data as Int32Array, 0, params)
      await expectError(run(record(operand)), 'ERR_OPENMOE_INVALID_ARG', /1, expected 0 to max_\w+ = 0/)
    }
  })

  it('refuses a seed that is no integer', () => {
    const write = (seed: number) => () => writeSampleRow(new Float32Array(6), new Int32Array(9), 0, { seed })
    for (const seed of [0.5, NaN, 2 ** 60])
      expect(write(seed)).toThrow(/sample: seed is .*, expected an integer/)
  })
})
