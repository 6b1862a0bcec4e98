// Generation with the real model: what a caller of model.generate and model.stream can rely on.
import { beforeEach, describe, expect, it } from 'vitest'
import type { GenerateOptions } from '../../lib/generate/options.ts'
import { expectError } from '../support/expect_error.ts'
import { eventually, randomNumbers, randomPrompt, tinyModel } from '../support/tiny_model.ts'

const INVALID = 'ERR_OPENMOE_INVALID_ARG'
const PROMPT = 'It was a dark night, and'

const model = tinyModel({ threads: 2, maxSequences: 4 })
beforeEach(async () => {
  await eventually(() => model().memory.cacheUsed === 0)
})

const tokensOf = async (options: GenerateOptions, prompt: string | number[] = PROMPT) =>
  (await model().generate(prompt, { ignoreEos: true, ...options })).tokens

describe('text', () => {
  it('is the continuation alone, and the chunks are its parts', async () => {
    const generation = model().stream(PROMPT, { maxTokens: 30, temperature: 0.9, seed: 5 })
    let streamed = ''
    const tokens: number[] = []
    for await (const chunk of generation) {
      streamed += chunk.text
      tokens.push(...chunk.tokens)
    }
    const result = await generation.result
    expect(streamed).toBe(result.text)
    expect(tokens).toEqual(result.tokens)
    const { tokenizer } = model()
    const whole = tokenizer.decode([...tokenizer.encode(PROMPT), ...result.tokens])
    expect(whole).toBe(PROMPT + result.text)
  })

  it('never holds half a character, for any tokens', async () => {
    // byte pieces are as likely as any token at this temperature
    for (let seed = 0; seed < 5; seed++) {
      const generation = model().stream(PROMPT, { maxTokens: 40, temperature: 50, seed, ignoreEos: true })
      const chunks: string[] = []
      for await (const { text } of generation) chunks.push(text)
      const { text, tokens } = await generation.result
      expect(chunks.join('')).toBe(text)
      const { tokenizer } = model()
      expect(PROMPT + text).toBe(tokenizer.decode([...tokenizer.encode(PROMPT), ...tokens]))
    }
  })

  it('is cut before a stop string', async () => {
    const { text } = await model().generate(PROMPT, { maxTokens: 40, ignoreEos: true })
    for (const stop of [text.slice(10, 11), text.slice(9, 14), text.slice(20, 32)]) {
      const result = await model().generate(PROMPT, { maxTokens: 40, ignoreEos: true, stop })
      expect(result.finishReason).toBe('stop')
      expect(result.text).toBe(text.slice(0, text.indexOf(stop)))
      expect(result.tokens.length).toBeLessThanOrEqual(40)
    }
  })

  it('ends with the end token', async () => {
    const result = await model().generate(PROMPT, { maxTokens: 40, logitBias: { 1: 100 } })
    expect(result).toMatchObject({ text: '', tokens: [1], finishReason: 'stop' })
  })

  it('says why it ended, and counts', async () => {
    const { finishReason, usage, tokens, timings, seed } = await model().generate([0, 5, 6], {
      maxTokens: 7,
      ignoreEos: true,
      seed: 9,
    })
    expect(finishReason).toBe('length')
    expect(tokens).toHaveLength(7)
    expect(usage).toEqual({ promptTokens: 3, completionTokens: 7, totalTokens: 10 })
    expect(seed).toBe(9)
    expect(timings.totalMs).toBeGreaterThanOrEqual(timings.firstTokenMs)
    expect(timings.firstTokenMs).toBeGreaterThan(0)
    expect(timings.tokensPerSecond).toBeGreaterThan(0)
  })
})

describe('sampling', () => {
  it('is greedy by default', async () => {
    expect(await tokensOf({ maxTokens: 20 })).toEqual(await tokensOf({ maxTokens: 20, temperature: 0 }))
    const greedy = await tokensOf({ maxTokens: 20 })
    for (const options of [{ topK: 1 }, { topP: 0 }, { minP: 1 }]) {
      expect(await tokensOf({ maxTokens: 20, temperature: 1, ...options })).toEqual(greedy)
    }
  })

  it('takes the tokens that a host which sees the logits of every step would take', async () => {
    const prompt = randomPrompt(randomNumbers(9), 12)
    const { greedy } = await model().forward([prompt], { greedySteps: 40 })
    expect(await tokensOf({ maxTokens: 40 }, prompt)).toEqual(greedy!.ids[0])
    // A penalty that changes nothing, but for which every step waits for the token before.
    const seeded = { maxTokens: 40, temperature: 1, seed: 3 }
    expect(await tokensOf(seeded, prompt)).toEqual(
      await tokensOf({ ...seeded, presencePenalty: 1e-30 }, prompt),
    )
  })

  it('repeats with a seed, and only with it', async () => {
    const draw = (seed?: number) => tokensOf({ maxTokens: 30, temperature: 1, seed })
    expect(await draw(1)).toEqual(await draw(1))
    expect(await draw(1)).not.toEqual(await draw(2))
    expect(await draw()).not.toEqual(await draw())
    // seeds differ in their upper half too
    expect(await draw(1)).not.toEqual(await draw(1 + 2 ** 32))
  })

  it('reports the seed it made up, and it gives the same tokens again', async () => {
    const first = await model().generate(PROMPT, { maxTokens: 20, temperature: 1 })
    const again = await model().generate(PROMPT, { maxTokens: 20, temperature: 1, seed: first.seed })
    expect(again.tokens).toEqual(first.tokens)
  })

  it('never gives an id that the tokenizer does not know', async () => {
    const tokens = await tokensOf({ maxTokens: 200, temperature: 100, seed: 3 })
    expect(Math.max(...tokens)).toBeLessThan(model().tokenizer.vocabSize)
    expect(new Set(tokens).size).toBeGreaterThan(150)
  })

  it('follows a logit bias: 100 forces a token, -100 forbids it', async () => {
    expect(await tokensOf({ maxTokens: 5, logitBias: { 300: 100 } })).toEqual([300, 300, 300, 300, 300])
    const [first] = await tokensOf({ maxTokens: 1 })
    const [other] = await tokensOf({ maxTokens: 1, logitBias: { [first!]: -100 } })
    expect(other).not.toBe(first)
  })

  it('follows penalties', async () => {
    const plain = await tokensOf({ maxTokens: 40 })
    expect(new Set(plain).size).toBeLessThan(40)
    expect(new Set(await tokensOf({ maxTokens: 40, presencePenalty: 100 })).size).toBe(40)
    expect(new Set(await tokensOf({ maxTokens: 40, frequencyPenalty: 100 })).size).toBe(40)
    // the repetition penalty counts the prompt, the others do not
    const prompt = [0, 300, 301, 302]
    const bias = { logitBias: { 300: 30 } }
    expect(await tokensOf({ maxTokens: 1, presencePenalty: 100, ...bias }, prompt)).toEqual([300])
    const [next] = await tokensOf({ maxTokens: 1 }, prompt)
    expect(await tokensOf({ maxTokens: 1, repetitionPenalty: 100 }, [...prompt, next!])).not.toEqual([next])
  })

  it('reports log-probabilities: the token its own, the alternatives best first', async () => {
    const { tokens, logprobs } = await model().generate(PROMPT, {
      maxTokens: 12,
      logprobs: 5,
      ignoreEos: true,
    })
    expect(logprobs!.map(({ token }) => token)).toEqual(tokens)
    for (const { token, logprob, top } of logprobs!) {
      expect(top).toHaveLength(5)
      expect(top[0]).toEqual({ token, logprob }) // greedy
      expect(top.map((t) => t.logprob)).toEqual(top.map((t) => t.logprob).sort((a, b) => b - a))
      expect(top.reduce((sum, t) => sum + Math.exp(t.logprob), 0)).toBeLessThanOrEqual(1 + 1e-5)
    }
  })

  it('reports what the model says, not what temperature, bias and penalties make of it', async () => {
    const plain = await model().generate(PROMPT, { maxTokens: 1, logprobs: 20 })
    const bent = await model().generate(PROMPT, {
      maxTokens: 1,
      logprobs: 20,
      temperature: 3,
      seed: 4,
      logitBias: { 300: 20 },
      repetitionPenalty: 2,
    })
    expect(bent.logprobs![0]!.top).toEqual(plain.logprobs![0]!.top)
  })

  it('has probabilities that sum to one', async () => {
    const { logits } = await model().forward([[0, 300, 301]], { logits: 'last' })
    const { logprobs } = await model().generate([0, 300, 301], { maxTokens: 1, logprobs: 20 })
    const data = logits!.data as Float32Array
    const highest = data.reduce((a, b) => Math.max(a, b))
    const logZ = highest + Math.log(data.reduce((sum, x) => sum + Math.exp(x - highest), 0))
    for (const { token, logprob } of logprobs![0]!.top) {
      expect(Math.abs(data[token]! - logZ - logprob)).toBeLessThan(1e-5)
    }
  })

  it('reports only as many alternatives as asked for, whatever a neighbour in the batch asks', async () => {
    const wanted = [undefined, 0, 1, 3, 20, 5]
    const results = await Promise.all(
      wanted.map((logprobs) => model().generate(PROMPT, { maxTokens: 3, logprobs })),
    )
    expect(results.map(({ logprobs }) => logprobs?.map(({ top }) => top.length))).toEqual([
      undefined,
      [0, 0, 0],
      [1, 1, 1],
      [3, 3, 3],
      [20, 20, 20],
      [5, 5, 5],
    ])
  })
})

describe('limits', () => {
  it('refuses a prompt without room for one token, naming the numbers', async () => {
    const full = randomPrompt(randomNumbers(1), 2048)
    await expectError(model().generate(full), 'ERR_OPENMOE_CONTEXT_LENGTH', /2048 tokens.*context is 2048/)
    await expectError(
      model().generate(full.slice(0, 2000), { maxTokens: 49 }),
      'ERR_OPENMOE_CONTEXT_LENGTH',
      /2000 tokens and maxTokens is 49/,
    )
  })

  it('fills the context to the last position', async () => {
    const { usage, finishReason } = await model().generate(randomPrompt(randomNumbers(1), 2040), {
      maxTokens: 8,
      ignoreEos: true,
    })
    expect({ total: usage.totalTokens, finishReason }).toEqual({ total: 2048, finishReason: 'length' })
  })

  it('gives what is left of the context without maxTokens', async () => {
    const { usage } = await model().generate(randomPrompt(randomNumbers(1), 2045), { ignoreEos: true })
    expect(usage.completionTokens).toBe(3)
  })

  it.each<[string, unknown]>([
    ['no token', []],
    ['a negative id', [0, -1]],
    ['an id beyond the vocabulary', [0, 4096]],
    ['a fraction', [0, 1.5]],
    ['an id that 32 bits would wrap', [0, 2 ** 32 + 5]],
    ['NaN', [0, NaN]],
    ['strings', ['0', '5']],
    ['null', null],
    ['undefined', undefined],
    ['a number', 7],
    ['an object', {}],
  ])('refuses %s as prompt', async (_, prompt) => {
    await expectError(model().generate(prompt as number[]), INVALID)
    await expectError(model().score(prompt as number[]), INVALID)
  })

  it('rejects, not throws, for a wrong option', async () => {
    const result = model().generate(PROMPT, { temperature: -1 })
    await expectError(result, INVALID, /^temperature /)
  })

  it('throws at once from stream(), where there is nothing to reject yet', async () => {
    await expectError(() => model().stream(PROMPT, { topK: -1 }), INVALID, /^topK /)
  })
})

describe('many requests', () => {
  it('share their steps', async () => {
    const before = model().stats().steps.count
    const lengths = [20, 24, 28, 32]
    await Promise.all(lengths.map((maxTokens) => tokensOf({ maxTokens })))
    const steps = model().stats().steps.count - before
    expect(steps).toBeGreaterThanOrEqual(32)
    expect(steps).toBeLessThan(40)
  })

  it('queue beyond maxSequences and get what they would get alone', async () => {
    const random = randomNumbers(8)
    const prompts = Array.from({ length: 11 }, () => randomPrompt(random, 10 + Math.floor(random() * 60)))
    const apart: number[][] = []
    for (const prompt of prompts) apart.push(await tokensOf({ maxTokens: 10 }, prompt))
    const together = Promise.all(prompts.map((prompt) => tokensOf({ maxTokens: 10 }, prompt)))
    await eventually(() => model().stats().requests.running > 0)
    const { requests } = model().stats()
    expect(requests.running).toBeLessThanOrEqual(4)
    expect(requests.waiting).toBe(11 - requests.running)
    expect(await together).toEqual(apart)
    expect(model().stats().requests).toMatchObject({ waiting: 0 })
  })

  it('are counted', async () => {
    const before = model().stats()
    await model().generate([0, 5, 6], { maxTokens: 4, ignoreEos: true })
    const after = model().stats()
    expect(after.requests.finished - before.requests.finished).toBe(1)
    expect(after.tokens.prompt - before.tokens.prompt).toBe(3)
    expect(after.tokens.generated - before.tokens.generated).toBe(4)
    expect(after.steps.count - before.steps.count).toBe(4)
    for (const layer of [2, 5]) {
      const choices = (stats: typeof after) => stats.moe[layer]?.expertLoad.reduce((a, b) => a + b, 0) ?? 0
      expect(choices(after) - choices(before)).toBe(2 * (3 + 3)) // the last token is never run
    }
    expect(after.moe[5]?.dropped).toEqual([0, 0])
  })
})

describe('abort', () => {
  const REASON = new Error('enough')
  const idle = () => eventually(() => model().memory.cacheUsed === 0)

  it('before: rejects with the reason', async () => {
    const signal = AbortSignal.abort(REASON)
    await expect(model().generate(PROMPT, { signal })).rejects.toBe(REASON)
    await idle()
  })

  it('in a long prompt: rejects before the next token and frees the pages', async () => {
    const abort = new AbortController()
    const steps = model().stats().steps.count
    const result = model().generate(randomPrompt(randomNumbers(9), 2000), { signal: abort.signal })
    result.catch(() => undefined)
    await eventually(() => model().stats().steps.count > steps)
    expect(model().memory.cacheUsed).toBeGreaterThan(0)
    abort.abort(REASON)
    await expect(result).rejects.toBe(REASON)
    await idle()
    expect(model().stats().steps.count - steps).toBeLessThan(4) // of 4 chunks
  })

  it('while decoding: rejects and frees the pages', async () => {
    const abort = new AbortController()
    const generation = model().stream(PROMPT, { maxTokens: 1000, signal: abort.signal, ignoreEos: true })
    let chunks = 0
    const reading = (async () => {
      for await (const _ of generation) if (++chunks === 3) abort.abort(REASON)
    })()
    await expect(reading).rejects.toBe(REASON)
    await expect(generation.result).rejects.toBe(REASON)
    await idle()
    expect(chunks).toBeLessThan(50)
  })

  it('while waiting: rejects, and the others finish', async () => {
    const abort = new AbortController()
    const busy = Array.from({ length: 4 }, () => tokensOf({ maxTokens: 30 }))
    const waiting = model().generate(PROMPT, { signal: abort.signal })
    await eventually(() => model().stats().requests.waiting === 1)
    abort.abort(REASON)
    await expect(waiting).rejects.toBe(REASON)
    for (const tokens of await Promise.all(busy)) expect(tokens).toHaveLength(30)
    await idle()
  })

  it('by leaving the stream: frees the pages', async () => {
    for await (const _ of model().stream(PROMPT, { maxTokens: 1000, ignoreEos: true })) break
    await idle()
  })

  it('works for forward and score', async () => {
    const signal = AbortSignal.abort(REASON)
    await expect(model().forward([[0, 5]], { signal })).rejects.toBe(REASON)
    await expect(model().score([0, 5, 6], { signal })).rejects.toBe(REASON)
  })
})
