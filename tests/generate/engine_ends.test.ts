// How requests end: by a token, a string or their length, by an abort, or because nobody reads on.
import { describe, expect, it } from 'vitest'
import type { Generation } from '../../lib/generate/generation.ts'
import { EOS, free, ScriptedEngine } from '../support/scripted_engine.ts'
import { eventually } from '../support/tiny_model.ts'

async function collect(generation: Generation): Promise<string[]> {
  const chunks: string[] = []
  for await (const { text } of generation) chunks.push(text)
  return chunks
}

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
