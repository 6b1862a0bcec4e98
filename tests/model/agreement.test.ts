// One model, many ways to run it: chunks, batches, neighbours and threads must not show in the result.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { GenerateOptions } from '../../lib/generate/options.ts'
import type { Model } from '../../lib/model/model.ts'
import { expectSameBits } from '../support/op_fixture.ts'
import { nmse, openTinyRunner, randomNumbers, randomPrompt, tinyModel } from '../support/tiny_model.ts'

describe('a forward pass in pieces', () => {
  let tiny: Awaited<ReturnType<typeof openTinyRunner>>
  beforeAll(async () => {
    tiny = await openTinyRunner()
  })
  afterAll(() => tiny.device.dispose())

  /** Logits of every position, `chunk` tokens at a time. */
  async function logitsInChunks(ids: readonly number[], chunk: number): Promise<Float32Array> {
    const { cache, runner, config } = tiny
    const pages = cache.reserve(ids.length)!
    const all = new Float32Array(ids.length * config.vocabSize)
    for (let start = 0; start < ids.length; start += chunk) {
      const part = ids.slice(start, start + chunk)
      const { logits } = await runner.step(
        [{ ids: part, position: start, pages, logitRows: part.map((_, i) => i) }],
        { expertCapacity: 'dropless', returnLogits: true },
      )
      all.set(logits!, start * config.vocabSize)
    }
    cache.release(pages)
    return all
  }

  const prompt = randomPrompt(randomNumbers(1), 150)
  let whole: Float32Array
  beforeAll(async () => {
    whole = await logitsInChunks(prompt, prompt.length)
  })

  it.each([1, 7, 64])('of %i tokens gives the logits of the whole: K4, and to the bit', async (chunk) => {
    const logits = await logitsInChunks(prompt, chunk)
    expect(nmse(logits, whole)).toBeLessThanOrEqual(1e-10)
    expectSameBits(logits, whole)
  })

  it('does not depend on what the pages held before', async () => {
    const other = randomPrompt(randomNumbers(2), 150)
    await logitsInChunks(other, 64)
    expectSameBits(await logitsInChunks(prompt, 64), whole)
  })

  it('sees every earlier token, and none that comes later', async () => {
    const changed = [...prompt]
    changed[70] = (changed[70]! % 4000) + 3
    const logits = await logitsInChunks(changed, 64)
    const { vocabSize } = tiny.config
    expectSameBits(logits.subarray(0, 70 * vocabSize), whole.subarray(0, 70 * vocabSize))
    for (let row = 70; row < prompt.length; row++) {
      const at = [row * vocabSize, (row + 1) * vocabSize] as const
      expect(logits.subarray(...at)).not.toEqual(whole.subarray(...at))
    }
  })
})

interface Answer {
  tokens: number[]
  logprobs: number[]
}

async function answer(model: Model, prompt: number[], options: GenerateOptions): Promise<Answer> {
  const { tokens, logprobs } = await model.generate(prompt, { ...options, logprobs: 3, ignoreEos: true })
  return {
    tokens,
    logprobs: logprobs!.flatMap(({ logprob, top }) => [logprob, ...top.map((t) => t.logprob)]),
  }
}

describe('a request among others (D1, D2)', () => {
  const needle = randomPrompt(randomNumbers(3), 40)
  const alone = tinyModel({ threads: 1 })
  const together = tinyModel({ threads: 2 })

  /** The needle's answer, submitted at a random place among 7 others of random lengths and options. */
  async function amongOthers(model: Model, seed: number, options: GenerateOptions): Promise<Answer> {
    const random = randomNumbers(seed)
    const place = Math.floor(random() * 8)
    const answers = Array.from({ length: 8 }, (_, i) =>
      i === place
        ? answer(model, needle, options)
        : answer(model, randomPrompt(random, 1 + Math.floor(random() * 300)), {
            temperature: random(),
            maxTokens: 1 + Math.floor(random() * 40),
            seed: i,
          }),
    )
    return (await Promise.all(answers))[place]!
  }

  describe.each([0, 0.8])('at temperature %f', (temperature) => {
    const options: GenerateOptions = { temperature, maxTokens: 24, seed: 1234 }

    it('answers the same to the bit, whatever the batch, the neighbours and the threads', async () => {
      const expected = await answer(alone(), needle, options)
      expect(expected.tokens).toHaveLength(24)
      for (let trial = 0; trial < 5; trial++) {
        expect(await amongOthers(together(), 100 + trial, options)).toEqual(expected)
      }
      expect(await amongOthers(alone(), 200, options)).toEqual(expected)
    })

    it('answers the same twice, alone', async () => {
      const first = await answer(together(), needle, options)
      expect(await answer(together(), needle, options)).toEqual(first)
    })
  })

  it('gives the same logits to the bit in one forward with 7 others and on any number of threads', async () => {
    const random = randomNumbers(4)
    const others = Array.from({ length: 7 }, () => randomPrompt(random, 1 + Math.floor(random() * 100)))
    const rows = needle.length * alone().config.vocabSize
    const expected = (await alone().forward([needle])).logits!.data
    for (const model of [alone(), together()]) {
      const { logits } = await model.forward([needle, ...others])
      expectSameBits(logits!.data.subarray(0, rows), expected)
    }
  })

  it('scores as it generates', async () => {
    const { tokens, logprobs } = await together().generate(needle, {
      maxTokens: 20,
      logprobs: 0,
      ignoreEos: true,
    })
    const scored = await alone().score([...needle, ...tokens])
    expect([...scored.logprobs.slice(needle.length - 1)]).toEqual(logprobs!.map(({ logprob }) => logprob))
  })
})

describe('capacity modes', () => {
  const model = tinyModel({ threads: 2 })

  /** Whether a sequence's logits change with what else is in the call. */
  async function neighboursShow(expertCapacity: 'dropless' | 'sequence' | 'batch'): Promise<boolean> {
    const random = randomNumbers(5)
    const needle = randomPrompt(random, 60)
    const logits = async (others: number[][]): Promise<Buffer> => {
      const result = await model().forward([...others, needle], { expertCapacity })
      return Buffer.from(result.logits!.data.slice(-needle.length * model().config.vocabSize).buffer)
    }
    // Neighbours that want the same two experts all the time (routing follows the token), and ordinary ones.
    const greedy = Array.from({ length: 8 }, () => [0, ...new Array<number>(99).fill(needle[30]!)])
    const ordinary = Array.from({ length: 8 }, () => randomPrompt(random, 100))
    const outcomes = [await logits([]), await logits(greedy), await logits(ordinary)]
    return outcomes.some((outcome) => !outcome.equals(outcomes[0]!))
  }

  it("keeps sequences apart when dropless and in 'sequence' mode", async () => {
    expect(await neighboursShow('dropless')).toBe(false)
    expect(await neighboursShow('sequence')).toBe(false)
  })

  // Without this the test above could not fail (D6).
  it("lets neighbours take each other's slots in 'batch' mode", async () => {
    expect(await neighboursShow('batch')).toBe(true)
  })

  it('differs between dropless and a limit where choices are dropped', async () => {
    const sequence = [0, ...new Array<number>(199).fill(300)]
    const run = (expertCapacity: 'dropless' | 'sequence') =>
      model().forward([sequence], { expertCapacity, logits: 'last', taps: ['moe.*.kept'] })
    const [free, limited] = [await run('dropless'), await run('sequence')]
    expect(Math.min(...free.taps['moe.2.kept']!.data)).toBe(1)
    expect(Math.min(...limited.taps['moe.2.kept']!.data)).toBe(0)
    expect(limited.logits!.data).not.toEqual(free.logits!.data)
    expect(limited.capacityPerGroup).toEqual([50])
  })

  describe.each(['sequence', 'batch'] as const)("an engine in '%s' mode", (expertCapacity) => {
    const limited = tinyModel({ expertCapacity })

    it('answers as if a request were alone', async () => {
      const random = randomNumbers(6)
      const prompts = Array.from({ length: 6 }, () => randomPrompt(random, 20 + Math.floor(random() * 600)))
      const options = { maxTokens: 6 }
      const apart: Answer[] = []
      for (const prompt of prompts) apart.push(await answer(limited(), prompt, options))
      expect(await Promise.all(prompts.map((prompt) => answer(limited(), prompt, options)))).toEqual(apart)
    })

    it('takes a long prompt as one group, like one forward pass', async () => {
      const prompt = randomPrompt(randomNumbers(7), 900)
      const { tokens } = await answer(limited(), prompt, { maxTokens: 1 })
      const { greedy } = await limited().forward([prompt], { expertCapacity, logits: 'none', greedySteps: 1 })
      expect(tokens).toEqual(greedy!.ids[0])
    })
  })
})
