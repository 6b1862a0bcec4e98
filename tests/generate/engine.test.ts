// Who runs when: the real engine over a scripted model, so that every moment can be chosen.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { OpenMoeError } from '../../lib/errors.ts'
import type { Generation } from '../../lib/generate/generation.ts'
import { EOS, free, ScriptedEngine, settled } from '../support/scripted_engine.ts'
import { eventually } from '../support/tiny_model.ts'

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
