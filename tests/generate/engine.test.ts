// Who runs when, and how requests end: the real engine over a scripted model, so that every moment can be chosen.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { OpenMoeError } from '../../lib/errors.ts'
import type { Generation } from '../../lib/generate/generation.ts'
import { EOS, ScriptedEngine } from '../support/scripted_engine.ts'
import { eventually } from '../support/tiny_model.ts'

const free = (scripted: ScriptedEngine) => scripted.cache.bytes.used === 0
const settled = (promise: Promise<unknown>) =>
  Promise.race([promise, new Promise((r) => setImmediate(r, 'no'))])

async function collect(generation: Generation): Promise<string[]> {
  const chunks: string[] = []
  for await (const { text } of generation) chunks.push(text)
  return chunks
}

describe('batching', () => {
  it('runs requests that come together in the same steps', async () => {
    const scripted = new ScriptedEngine()
    const requests = [10, 20, 30].map((n) => scripted.request(new Array<number>(n).fill(7)))
    const results = await Promise.all(requests.map(({ result }) => result))
    expect(results.map(({ tokens }) => tokens.length)).toEqual([11, 21, 31])
    expect(scripted.steps.length).toBe(31)
    expect(scripted.steps[0]).toEqual({ rows: 12, sequences: 3, sampled: 3 })
    expect(scripted.steps[5]).toEqual({ rows: 3, sequences: 3, sampled: 3 })
    expect(scripted.steps[25]).toEqual({ rows: 1, sequences: 1, sampled: 1 })
  })

  it('lets a request join while others decode', async () => {
    const scripted = new ScriptedEngine()
    const first = scripted.request(new Array<number>(20).fill(7))
    let second: Generation | undefined
    scripted.onStep = (step) => {
      if (step === 4) second = scripted.request([8, 8])
    }
    await first.result
    expect((await second!.result).tokens).toEqual([8, 8, EOS])
    expect(scripted.steps.length).toBe(21)
  })

  it('cuts prompts into chunks, and who decodes gets a token with every one', async () => {
    const scripted = new ScriptedEngine({ prefillChunk: 16 })
    const short = scripted.request(new Array<number>(9).fill(7))
    scripted.onStep = (step) => {
      if (step === 1) scripted.request([8], {}, { promptLength: 50 })
    }
    await short.result
    expect(scripted.steps.filter(({ rows }) => rows > 2)).toEqual([
      { rows: 4, sequences: 1, sampled: 1 },
      { rows: 17, sequences: 2, sampled: 1 },
      { rows: 17, sequences: 2, sampled: 1 },
      { rows: 17, sequences: 2, sampled: 1 },
      { rows: 3, sequences: 2, sampled: 2 },
    ])
  })

  it('never runs more sequences than maxBatch, and serves who waits in order', async () => {
    const scripted = new ScriptedEngine({ maxBatch: 2 })
    const order: number[] = []
    const requests = [3, 3, 3, 3, 3].map((n, i) => {
      const { result } = scripted.request(new Array<number>(n).fill(7))
      return result.then(() => order.push(i))
    })
    await Promise.resolve().then(() => Promise.resolve())
    expect(scripted.engine.queue).toEqual({ waiting: 3, running: 2 })
    await Promise.all(requests)
    expect(Math.max(...scripted.steps.map(({ sequences }) => sequences))).toBe(2)
    expect(order).toEqual([0, 1, 2, 3, 4])
  })

  it('lets who does not fit the cache wait, and nobody overtakes', async () => {
    const scripted = new ScriptedEngine({ numPages: 4 }) // 128 positions
    const first = scripted.request([7, 7], { maxTokens: 60 })
    const large = scripted.request([8], { maxTokens: 100 })
    const small = scripted.request([9], { maxTokens: 10 })
    const order: string[] = []
    void large.result.then(() => order.push('large'))
    void small.result.then(() => order.push('small'))
    await first.result
    await Promise.all([large.result, small.result])
    expect(order).toEqual(['large', 'small'])
    await eventually(() => free(scripted))
  })

  it('serves a request that comes at any moment around the end of the last one', async () => {
    for (let ticks = 0; ticks < 20; ticks++) {
      const scripted = new ScriptedEngine()
      await scripted.request([7]).result
      for (let i = 0; i < ticks; i++) await Promise.resolve()
      const { tokens } = (await settled(scripted.request([8]).result.then((r) => r))) as { tokens: number[] }
      expect(tokens, `after ${ticks} microtasks`).toEqual([8, EOS])
    }
  })

  it('ends every request once and frees every page, whatever the order of things (P2)', async () => {
    const request = fc.record({
      length: fc.nat({ max: 12 }),
      promptLength: fc.integer({ min: 1, max: 60 }),
      abortAfter: fc.option(fc.nat({ max: 30 })),
      startAfter: fc.nat({ max: 10 }),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(request, { minLength: 1, maxLength: 8 }), async (plans) => {
        const scripted = new ScriptedEngine({ numPages: 8, prefillChunk: 20, maxBatch: 3 })
        const outcomes = plans.map(async ({ length, promptLength, abortAfter, startAfter }) => {
          for (let i = 0; i < startAfter; i++) await Promise.resolve()
          const abort = new AbortController()
          const script = new Array<number>(length).fill(7)
          const { result } = scripted.request(script, { signal: abort.signal }, { promptLength })
          const outcome = result.then(
            ({ tokens }) => tokens.length,
            (reason: unknown) => reason,
          )
          if (abortAfter !== null) {
            for (let i = 0; i < abortAfter; i++) await Promise.resolve()
            abort.abort('enough')
          }
          return outcome
        })
        const results = await Promise.all(outcomes)
        results.forEach((outcome, i) => {
          if (outcome === 'enough') expect(plans[i]!.abortAfter).not.toBeNull()
          else expect(outcome).toBe(plans[i]!.length + 1)
        })
        await eventually(() => free(scripted))
        expect(scripted.engine.queue).toEqual({ waiting: 0, running: 0 })
      }),
      { numRuns: 300 },
    )
  })
})

describe('a step', () => {
  it('is handed over before the tokens it continues are known', async () => {
    const scripted = new ScriptedEngine()
    const release = scripted.hold()
    const requests = [scripted.request([7, 8]), scripted.request([9, 9, 9])]
    await eventually(() => scripted.steps.length === 2)
    expect(scripted.ids[1]).toEqual([-1, -2]) // the rows of the step before
    release()
    const results = await Promise.all(requests.map(({ result }) => result))
    expect(results.map(({ tokens }) => tokens)).toEqual([
      [7, 8, EOS],
      [9, 9, 9, EOS],
    ])
    expect(scripted.steps.length).toBe(4)
    expect(scripted.ids[3]).toEqual([-2]) // the first had all its tokens
  })

  it('waits for the tokens where penalties count them', async () => {
    const scripted = new ScriptedEngine()
    const { result } = scripted.request([7, 8, 9], { presencePenalty: 0.5 })
    expect((await result).tokens).toEqual([7, 8, 9, EOS])
    expect(scripted.ids.slice(1)).toEqual([[7], [8], [9]])
  })

  it('with a chunk of a prompt is not handed over early, so that others can still join it', async () => {
    const scripted = new ScriptedEngine({ prefillChunk: 8 })
    const release = scripted.hold()
    const { result } = scripted.request([7], {}, { promptLength: 20 })
    await eventually(() => scripted.steps.length > 0)
    await settled(result)
    expect(scripted.steps.length).toBe(1)
    release()
    expect((await result).tokens).toEqual([7, EOS])
  })

  it('that follows one in which a sequence ended has one row too many, and no more', async () => {
    const scripted = new ScriptedEngine()
    const other = scripted.request(new Array<number>(9).fill(8))
    const { tokens } = await scripted.request([7, 7], { maxTokens: 9 }).result
    await other.result
    expect(tokens).toEqual([7, 7, EOS])
    expect(scripted.steps.map(({ sequences }) => sequences)).toEqual([2, 2, 2, 2, 1, 1, 1, 1, 1, 1])
  })

  it('that follows a failed one is taken back: who joined only then loses nothing', async () => {
    const scripted = new ScriptedEngine()
    let joined: Generation | undefined
    scripted.onStep = (step) => {
      scripted.failure = step === 3 ? new Error('broken') : undefined
      if (step === 3) joined = scripted.request([8, 9], {}, { promptLength: 1 })
    }
    await expect(scripted.request(new Array<number>(9).fill(7)).result).rejects.toThrow('broken')
    expect((await joined!.result).tokens).toEqual([8, 9, EOS])
    expect(scripted.steps.slice(3)).toEqual([
      { rows: 2, sequences: 2, sampled: 2 }, // taken back
      { rows: 1, sequences: 1, sampled: 1 },
      { rows: 1, sequences: 1, sampled: 1 },
      { rows: 1, sequences: 1, sampled: 1 },
    ])
    await eventually(() => free(scripted))
  })
})

describe('ending', () => {
  it('stops at the end token, which belongs to the tokens', async () => {
    const { tokens, finishReason, usage } = await new ScriptedEngine().request([7, 7], { maxTokens: 9 })
      .result
    expect({ tokens, finishReason, usage }).toEqual({
      tokens: [7, 7, EOS],
      finishReason: 'stop',
      usage: { promptTokens: 4, completionTokens: 3, totalTokens: 7 },
    })
  })

  it('stops at maxTokens', async () => {
    const { tokens, finishReason } = await new ScriptedEngine().request([7, 8, 9], { maxTokens: 2 }).result
    expect({ tokens, finishReason }).toEqual({ tokens: [7, 8], finishReason: 'length' })
  })

  it("says 'stop' when the end token is the last that is allowed", async () => {
    expect((await new ScriptedEngine().request([7], { maxTokens: 2 }).result).finishReason).toBe('stop')
  })

  it('goes on after the end token with ignoreEos', async () => {
    const { tokens, finishReason } = await new ScriptedEngine().request([7, EOS, 8], {
      maxTokens: 3,
      ignoreEos: true,
    }).result
    expect({ tokens, finishReason }).toEqual({ tokens: [7, EOS, 8], finishReason: 'length' })
  })

  it('stops after the three tokens that the chat model writes for </s> (spec section 5)', async () => {
    const extra = { endIds: [50, 51, 52] }
    const { tokens, finishReason } = await new ScriptedEngine().request([7, 50, 51, 52, 9], {}, extra).result
    expect({ tokens, finishReason }).toEqual({ tokens: [7, 50, 51, 52], finishReason: 'stop' })
    const wrong = await new ScriptedEngine().request([50, 51, 7, 52, 9], {}, extra).result
    expect(wrong.tokens).toEqual([50, 51, 7, 52, 9, EOS])
  })

  it('cuts at a stop string across token borders and shows none of it', async () => {
    const pieces = Object.assign(new Array<string>(), { 10: 'Hello', 11: ' ST', 12: 'OP', 13: ' more' })
    const run = () => new ScriptedEngine().request([10, 11, 12, 13], { stop: 'STOP' }, { pieces })
    const { text, tokens, finishReason } = await run().result
    expect({ text, tokens, finishReason }).toEqual({
      text: 'Hello ',
      tokens: [10, 11, 12],
      finishReason: 'stop',
    })
    expect(await collect(run())).toEqual(['Hello', ' ', ''])
  })

  it('gives what it held back when the end comes first', async () => {
    const pieces = Object.assign(new Array<string>(), { 10: 'a', 11: '</', 12: 's' })
    const run = () => new ScriptedEngine().request([10, 11, 12], {}, { pieces, stops: ['</s>'] })
    expect((await run().result).text).toBe('a</s')
    expect((await collect(run())).join('')).toBe('a</s')
  })

  it('cuts the text-split </s> of the model', async () => {
    const pieces = Object.assign(new Array<string>(), { 10: 'Yes.', 11: ' </', 12: 's', 13: '>', 14: 'x' })
    const { text, finishReason, tokens } = await new ScriptedEngine().request(
      [10, 11, 12, 13, 14],
      {},
      { pieces, stops: ['</s>'] },
    ).result
    expect({ text, finishReason, tokens }).toEqual({
      text: 'Yes. ',
      finishReason: 'stop',
      tokens: [10, 11, 12, 13],
    })
  })
})

describe('abort', () => {
  const REASON = new Error('enough')

  it('before the start rejects with the reason and runs nothing', async () => {
    const scripted = new ScriptedEngine()
    const { result } = scripted.request([7], { signal: AbortSignal.abort(REASON) })
    await expect(result).rejects.toBe(REASON)
    await eventually(() => free(scripted))
    expect(scripted.steps).toEqual([])
  })

  it('while waiting rejects at once and lets the next one pass', async () => {
    const scripted = new ScriptedEngine({ maxBatch: 1 })
    const release = scripted.hold()
    const abort = new AbortController()
    const first = scripted.request([7, 7])
    const second = scripted.request([8], { signal: abort.signal })
    await eventually(() => scripted.steps.length > 0)
    abort.abort(REASON)
    await expect(second.result).rejects.toBe(REASON)
    expect(scripted.engine.queue.running).toBe(1)
    release()
    await first.result
    await eventually(() => free(scripted))
  })

  it('in a long prompt rejects at once; its pages are kept until the chunk that writes them is done', async () => {
    const scripted = new ScriptedEngine({ prefillChunk: 8 })
    const release = scripted.hold()
    const abort = new AbortController()
    const { result } = scripted.request([7], { signal: abort.signal }, { promptLength: 40 })
    await eventually(() => scripted.steps.length === 1)
    abort.abort(REASON)
    await expect(result).rejects.toBe(REASON)
    expect(free(scripted)).toBe(false)
    release()
    await eventually(() => free(scripted))
    expect(scripted.steps.length).toBe(1)
  })

  it('while decoding rejects at once, keeps what was streamed, and the others go on', async () => {
    const scripted = new ScriptedEngine()
    const abort = new AbortController()
    const other = scripted.request(new Array<number>(20).fill(8))
    const aborted = scripted.request(new Array<number>(20).fill(7), { signal: abort.signal })
    const seen: number[] = []
    const reading = (async () => {
      for await (const { tokens } of aborted) {
        seen.push(...tokens)
        if (seen.length === 3) abort.abort(REASON)
      }
    })()
    await expect(reading).rejects.toBe(REASON)
    await expect(aborted.result).rejects.toBe(REASON)
    expect(seen.length).toBeGreaterThanOrEqual(3)
    expect(seen.length).toBeLessThan(20)
    expect((await other.result).tokens.length).toBe(21)
    await eventually(() => free(scripted))
  })

  it('without a reason gives the AbortError of the platform', async () => {
    const abort = new AbortController()
    const { result } = new ScriptedEngine().request([7], { signal: abort.signal })
    abort.abort()
    await expect(result).rejects.toMatchObject({ name: 'AbortError' })
  })

  it('after the end changes nothing', async () => {
    const abort = new AbortController()
    const generation = new ScriptedEngine().request([7], { signal: abort.signal })
    await generation.result
    abort.abort(REASON)
    expect((await generation.result).tokens).toEqual([7, EOS])
  })

  it('leaves no listener on a signal that is used again and again', async () => {
    const { signal } = new AbortController()
    let listeners = 0
    const { addEventListener, removeEventListener } = signal
    signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
      listeners++
      addEventListener.apply(signal, args)
    }
    signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
      listeners--
      removeEventListener.apply(signal, args)
    }
    for (let i = 0; i < 5; i++) await new ScriptedEngine().request([7], { signal }).result
    expect(listeners).toBe(0)
  })
})

describe('a stream', () => {
  it('that is left early ends its request, and result says so', async () => {
    const scripted = new ScriptedEngine()
    const generation = scripted.request(new Array<number>(100).fill(7))
    for await (const _ of generation) break
    await expect(generation.result).rejects.toMatchObject({ code: 'ERR_OPENMOE_ABORTED' })
    await eventually(() => free(scripted))
    expect(scripted.steps.length).toBeLessThan(100)
  })

  it('that nobody reads still ends, and its error is no unhandled rejection', async () => {
    const scripted = new ScriptedEngine()
    scripted.failure = new Error('broken')
    scripted.request([7])
    await eventually(() => free(scripted) && scripted.steps.length > 0)
  })

  it('gives a slow reader everything, and does not slow down the others', async () => {
    const scripted = new ScriptedEngine()
    const slow = scripted.request(Array.from({ length: 30 }, (_, i) => 100 + i))
    const fast = scripted.request(new Array<number>(30).fill(7))
    const seen: number[] = []
    for await (const { tokens } of slow) {
      if (seen.length === 0) await fast.result
      await new Promise((resolve) => setImmediate(resolve))
      seen.push(...tokens)
    }
    expect(seen).toEqual([...Array.from({ length: 30 }, (_, i) => 100 + i), EOS])
    expect(scripted.steps.length).toBe(31)
  })

  it('can be read after its end', async () => {
    const generation = new ScriptedEngine().request([7, 8])
    await generation.result
    const tokens: number[] = []
    for await (const chunk of generation) tokens.push(...chunk.tokens)
    expect(tokens).toEqual([7, 8, EOS])
  })
})

describe('failure', () => {
  it('of a step ends its requests with the error; the engine serves the next', async () => {
    const scripted = new ScriptedEngine()
    scripted.failure = new OpenMoeError('ERR_OPENMOE_NON_FINITE', 'NaN')
    const requests = [scripted.request([7]), scripted.request([8])]
    for (const { result } of requests) await expect(result).rejects.toBe(scripted.failure)
    scripted.failure = undefined
    expect((await scripted.request([9]).result).tokens).toEqual([9, EOS])
    await eventually(() => free(scripted))
  })

  it('of the step is not blamed on who waits', async () => {
    const scripted = new ScriptedEngine({ maxBatch: 1 })
    const [first, second] = [scripted.request([7]), scripted.request([8])]
    scripted.onStep = (step) => {
      scripted.failure = step === 1 ? new Error('broken') : undefined
    }
    await expect(first.result).rejects.toThrow('broken')
    expect((await second.result).tokens).toEqual([8, EOS])
  })

  it('close() ends running and waiting requests, and refuses new ones', async () => {
    const scripted = new ScriptedEngine({ maxBatch: 1 })
    const release = scripted.hold()
    const requests = [scripted.request([7]), scripted.request([8])]
    await eventually(() => scripted.steps.length > 0)
    const error = new OpenMoeError('ERR_OPENMOE_DISPOSED', 'closed')
    const closing = scripted.engine.close(error)
    for (const { result } of requests) await expect(result).rejects.toBe(error)
    expect(await settled(closing)).toBe('no') // a step is in flight
    release()
    await closing
    expect(free(scripted)).toBe(true)
    await expect(scripted.request([9]).result).rejects.toBe(error)
  })
})
