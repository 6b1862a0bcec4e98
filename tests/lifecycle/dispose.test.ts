// dispose() may come at any moment, more than once, and ends everything with one clear error.
import { describe, expect, it } from 'vitest'
import { openDevice } from '../../lib/device.ts'
import { loadModel } from '../../lib/model/load_model.ts'
import type { Model } from '../../lib/model/model.ts'
import { add } from '../../lib/ops/add.ts'
import type { Program } from '../../lib/program.ts'
import { tensor } from '../../lib/tensor.ts'
import { expectError } from '../support/expect_error.ts'
import { eventually, randomNumbers, randomPrompt, TINY } from '../support/tiny_model.ts'

const DISPOSED = 'ERR_OPENMOE_DISPOSED'
const load = () => loadModel(TINY, { threads: 2, maxSequences: 2 })

describe('a model', () => {
  it('rejects what runs, streams and waits when it is disposed', async () => {
    const model = await load()
    const stream = model.stream([0, 5], { maxTokens: 1000, ignoreEos: true })
    const reading = (async () => {
      for await (const _ of stream);
    })()
    const requests = [
      reading,
      stream.result,
      ...[1, 2, 3].map(() => model.generate(randomPrompt(randomNumbers(1), 1500), { maxTokens: 100 })),
      model.forward([randomPrompt(randomNumbers(2), 1500)], { logits: 'last' }),
      model.score(randomPrompt(randomNumbers(3), 1500)),
    ].map((request) => expectError(request, DISPOSED))
    await eventually(() => model.stats().requests.running === 2)
    await model.dispose()
    await Promise.all(requests)
    expect(model.stats().requests).toMatchObject({ waiting: 0, running: 0 })
  })

  it.each([0, 1, 3, 10, 30])('can be disposed %i ms after a request came', async (milliseconds) => {
    const model = await load()
    const request = model.generate(randomPrompt(randomNumbers(1), 700), { maxTokens: 200, ignoreEos: true })
    const outcome = expectError(request, DISPOSED)
    if (milliseconds > 0) await new Promise((resolve) => setTimeout(resolve, milliseconds))
    await model.dispose()
    await outcome
  })

  it('can be disposed twice, also at once', async () => {
    const model = await load()
    const both = [model.dispose(), model.dispose()]
    await Promise.all(both)
    await model.dispose()
    await model[Symbol.asyncDispose]()
  })

  it('refuses everything afterwards, and says what to do', async () => {
    const model = await load()
    await model.dispose()
    await expectError(model.generate('x'), DISPOSED, /Load it again/)
    await expectError(() => model.stream('x'), DISPOSED)
    await expectError(model.chat([{ role: 'user', content: 'x' }]), DISPOSED)
    await expectError(() => model.streamChat([{ role: 'user', content: 'x' }]), DISPOSED)
    await expectError(model.forward([[0, 5]]), DISPOSED)
    await expectError(model.score([0, 5]), DISPOSED)
  })

  it('still knows what it was', async () => {
    const model = await load()
    await model.dispose()
    expect(model.config.numExperts).toBe(16)
    expect(model.tokenizer.decode([300])).not.toBe('')
    expect(model.stats().tokens).toEqual({ prompt: 0, generated: 0 })
  })

  it('is disposed at the end of `await using`', async () => {
    let escaped: Model
    {
      await using model = await load()
      escaped = model
      await model.generate([0, 5], { maxTokens: 1 })
    }
    await expectError(escaped.generate([0, 5]), DISPOSED)
  })
})

describe('loading', () => {
  it.each([0, 0.2, 0.9])('stops at %f of the weights with the reason of the signal', async (share) => {
    const abort = new AbortController()
    const reason = new Error('enough')
    const ratios: number[] = []
    const loading = loadModel(TINY, {
      signal: abort.signal,
      onProgress: ({ ratio }) => {
        ratios.push(ratio)
        if (ratio >= share) abort.abort(reason)
      },
    })
    await expect(loading).rejects.toBe(reason)
    expect(ratios.at(-1)).toBeLessThan(1)
  })

  it('does not start with a signal that is aborted', async () => {
    const reason = new Error('enough')
    await expect(loadModel(TINY, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  })

  it('reports progress up to the last byte, in order', async () => {
    const ratios: number[] = []
    const model = await loadModel(TINY, { onProgress: ({ ratio }) => ratios.push(ratio) })
    await model.dispose()
    expect(ratios.at(-1)).toBe(1)
    expect(ratios).toEqual([...ratios].sort((a, b) => a - b))
    expect(ratios.length).toBeGreaterThan(10)
  })

  it.each<[string, unknown]>([
    ['dtype', 'int2'],
    ['expertCapacity', 'none'],
    ['maxContext', 0],
    ['maxContext', 1.5],
    ['maxSequences', -1],
    ['maxSequences', NaN],
    ['threads', 0],
    ['threads', '2'],
  ])('refuses %s: %s, naming it', async (name, value) => {
    await expectError(loadModel(TINY, { [name]: value }), 'ERR_OPENMOE_INVALID_ARG', new RegExp(`^${name}:`))
  })

  it('refuses a context longer than the model has, and devices that are not there', async () => {
    await expectError(loadModel(TINY, { maxContext: 4096 }), 'ERR_OPENMOE_CONTEXT_LENGTH', /2048 positions/)
    await expectError(loadModel(TINY, { device: 'cuda' }), 'ERR_OPENMOE_UNSUPPORTED', /'cpu'/)
    await expectError(loadModel(TINY, { device: 'tpu' }), 'ERR_OPENMOE_INVALID_ARG', /'tpu'/)
    await expectError(loadModel('/nowhere'), 'ERR_OPENMOE_MODEL_NOT_FOUND', /\/nowhere/)
  })
})

describe('a device', () => {
  const a = tensor(new Float32Array(1 << 20).fill(1), [1024, 1024])

  it('rejects what runs and waits when it is disposed', async () => {
    const device = await openDevice('cpu', { threads: 2 })
    // One after the other on the device's thread. The first takes a second, while this thread may be kept from its core.
    const adds = (count: number) => (p: Program) => {
      let x = add(p, a, a)
      for (let i = 1; i < count; i++) x = add(p, x, x)
      return x
    }
    const runs = [3000, 300, 300].map((count) => device.run(adds(count)))
    const closing = device.dispose()
    await Promise.all(runs.map((run) => expectError(run, DISPOSED)))
    await closing
  })

  it('can be disposed twice and refuses everything afterwards', async () => {
    const device = await openDevice('cpu')
    const kept = device.empty('f32', [4])
    const program = device.compile((p) => add(p, a, a))
    await Promise.all([device.dispose(), device.dispose()])
    await expectError(
      device.run((p) => add(p, a, a)),
      DISPOSED,
    )
    await expectError(program.run(), DISPOSED)
    await expectError(() => device.empty('f32', [4]), DISPOSED)
    await expectError(() => device.write(kept, new Float32Array(4)), DISPOSED)
    await expectError(device.read(kept), DISPOSED)
    device.free(kept)
    await device.dispose()
  })

  it('can be given back memory that a run still uses', async () => {
    const device = await openDevice('cpu')
    const x = await device.upload(a)
    const running = device.run((p) => add(p, x, x))
    device.free(x)
    device.free(x)
    expect(new Set((await running).data)).toEqual(new Set([2]))
    await expectError(device.read(x), DISPOSED)
    await device.dispose()
  })
})
