// The last layer computes only rows whose logits are wanted. That must show in the work, and in nothing else.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ForwardShape, openMoe } from '../../lib/model/openmoe.ts'
import type { SequenceStep, StepOptions } from '../../lib/model/runner.ts'
import { Program } from '../../lib/program.ts'
import type { Tensor } from '../../lib/tensor.ts'
import { expectSameBits } from '../support/op_fixture.ts'
import { openTinyRunner, randomNumbers, randomPrompt } from '../support/tiny_model.ts'

type Tiny = Awaited<ReturnType<typeof openTinyRunner>>

const upTo = (length: number): number[] => Array.from({ length }, (_, i) => i)

/** Somebody who decodes, a chunk of a prompt, the end of one, and rows that are neither the last nor in order. */
async function mixedBatch({ cache, runner }: Tiny): Promise<SequenceStep[]> {
  const random = randomNumbers(11)
  const begin = async (cached: number, length: number, logitRows: number[]): Promise<SequenceStep> => {
    const ids = randomPrompt(random, cached + length)
    const pages = cache.reserve(ids.length)!
    if (cached > 0) {
      const before = { ids: ids.slice(0, cached), position: 0, pages, logitRows: upTo(cached) }
      await runner.step([before], { expertCapacity: 'dropless' })
    }
    return { ids: ids.slice(cached), position: cached, pages, logitRows }
  }
  return [
    await begin(0, 40, []),
    await begin(33, 1, [0]),
    await begin(31, 9, [8]),
    await begin(0, 1, [0]),
    await begin(5, 6, [4, 1]),
    await begin(64, 3, []),
  ]
}

/** What of each is computed: 'attention', 'ffn' or 'head' is where rows that nobody wants end. */
const OBSERVED = [
  ['nobody observes it', []],
  ['its router is observed', ['moe.*.topk_index', 'after_attention.*']],
  ['all of it is observed', ['hidden.*']],
] as const

describe.each([
  ['MoE', 6, 'f32'],
  ['MoE', 6, 'bf16'],
  ['MoE', 6, 'int8'],
  ['dense', 5, 'f32'],
  ['dense', 5, 'bf16'],
] as const)('a last layer that is %s, of %i, in %s', (_kind, numLayers, dtype) => {
  let tiny: Tiny
  let batch: SequenceStep[]
  /** Logits of all rows of the batch: one step in which all are wanted. */
  let whole: Float32Array[]
  beforeAll(async () => {
    tiny = await openTinyRunner({ numLayers, dtype })
    batch = await mixedBatch(tiny)
    const everything = batch.map((step) => ({ ...step, logitRows: upTo(step.ids.length) }))
    const { logits } = await run(everything, {})
    const { vocabSize } = tiny.config
    whole = upTo(logits!.length / vocabSize).map((i) => logits!.slice(i * vocabSize, (i + 1) * vocabSize))
  })
  afterAll(() => tiny.device.dispose())

  const run = (steps: SequenceStep[], options: Partial<StepOptions>) =>
    tiny.runner.step(steps, { expertCapacity: 'dropless', returnLogits: true, ...options })

  /** What of `whole` a step wants, in order. */
  function wanted(): Float32Array[] {
    let first = 0
    return batch.flatMap(({ ids, logitRows }) => {
      const rows = logitRows.map((row) => whole[first + row]!)
      first += ids.length
      return rows
    })
  }

  it.each(OBSERVED)('gives the wanted rows the same bits when %s', async (_when, taps) => {
    const sampling = { vocabLimit: tiny.config.vocabSize }
    const { logits, tokens } = await run(batch, { taps, sampling })
    expectSameBits(logits!, Float32Array.from(wanted().flatMap((row) => [...row])))
    expect([...tokens!]).toEqual(wanted().map((row) => row.indexOf(Math.max(...row))))
  })

  it('caches all keys and values, whether or not any logits are wanted', async () => {
    const { cache, config } = tiny
    const ids = randomPrompt(randomNumbers(12), 60)
    const at = async (pages: Int32Array, start: number, end: number, logitRows: number[]) =>
      (await run([{ ids: ids.slice(start, end), position: start, pages, logitRows }], {})).logits
    const [one, other] = [cache.reserve(ids.length)!, cache.reserve(ids.length)!]
    const logits = await at(one, 0, 60, upTo(60))
    expect(await at(other, 0, 30, [])).toBeUndefined()
    await at(other, 30, 50, [19])
    expectSameBits((await at(other, 50, 60, [9]))!, logits!.subarray(59 * config.vocabSize))
  })

  it('keeps what is observed complete', async () => {
    const everything = batch.map((step) => ({ ...step, logitRows: upTo(step.ids.length) }))
    const all = await run(everything, { taps: ['*'] })
    const last = [...all.taps.keys()].filter((name) => name.split('.')[1] === String(numLayers - 1))
    expect(last.length).toBe(numLayers === 6 ? 8 : 2)
    for (const steps of [batch, batch.map((step) => ({ ...step, logitRows: [] }))]) {
      for (const tap of last) {
        const { taps } = await run(steps, { taps: [tap], returnLogits: false })
        expect([...taps.keys()]).toEqual([tap])
        expect(taps.get(tap)!.shape).toEqual(all.taps.get(tap)!.shape)
        expectSameBits(taps.get(tap)!.data, all.taps.get(tap)!.data)
      }
      const { taps } = await run(steps, { taps: ['*'], returnLogits: false })
      expect([...taps.keys()]).toEqual([...all.taps.keys()])
      for (const [name, { data }] of taps) expectSameBits(data, all.taps.get(name)!.data)
    }
  })
})

/** Notes how many rows each op of the last layer is recorded for. */
class Recorded extends Program {
  readonly rows: Record<string, number[]> = {}

  override record(...call: Parameters<Program['record']>): void {
    super.record(...call)
    const [, tensors, numbers] = call
    const [, index, part] = /^layers\.(\d+)\.(.*)$/.exec(this.encode().labels.at(-1)!) ?? []
    if (index !== '5' || !part) return
    const { out, activated } = tensors as Record<string, Tensor | undefined>
    const rows = numbers?.numTokens ?? out?.shape[0] ?? activated?.shape[0]
    ;(this.rows[part] ??= []).push(Number(rows))
  }
}

describe('what is recorded of the last layer', () => {
  let tiny: Tiny
  beforeAll(async () => {
    tiny = await openTinyRunner()
  })
  afterAll(() => tiny.device.dispose())

  function record(
    { numLogitRows = 2, hasCapacity = false }: Partial<ForwardShape>,
    taps: string[] = [],
  ): Record<string, number[]> {
    const p = new Recorded(tiny.device, taps)
    const shape = { numTokens: 10, numSeqs: 2, numGroups: 1, maxBlocks: 64, numLogitRows, hasCapacity }
    openMoe(p, tiny.config, tiny.weights, { cache: tiny.cache }, shape)
    return p.rows
  }

  const keys = { 'attention.linear': [10, 10], 'attention.rope': [10], 'attention.kv_append': [10] }
  const experts = (rows: number) => ({
    'moe.moe_routing': [rows],
    'moe.moe_permute': [rows],
    'moe.grouped_gemm_swiglu': [2 * rows],
    'moe.grouped_gemm': [2 * rows],
    'moe.moe_unpermute': [rows],
    'extra_mlp.grouped_gemm_swiglu': [rows],
    'extra_mlp.linear': [rows],
  })
  const everything = {
    rms_norm: [10, 10, 10],
    'attention.linear_qkv': [10],
    'attention.linear': [10],
    'attention.rope': [10, 10],
    'attention.kv_append': [10],
    'attention.attention': [10],
    'moe.moe_router': [10],
    ...experts(10),
  }

  it('is keys and values of all rows, and the rest of those whose logits are wanted', () => {
    expect(record({})).toEqual({
      ...keys,
      rms_norm: [10, 2, 2, 2],
      embedding: [2], // the rows are picked
      'attention.linear': [10, 10, 2, 2],
      'attention.rope': [10, 2],
      'attention.attention': [2],
      'moe.moe_router': [2],
      ...experts(2),
    })
  })

  it('is keys and values where no logits are wanted', () => {
    expect(record({ numLogitRows: 0 })).toEqual({ ...keys, rms_norm: [10] })
  })

  it.each(['moe.*.topk_index', 'moe.5.router_logits', 'moe.5.topk_*', 'after_attention.5'])(
    'has attention and router of all rows where %s is observed',
    (tap) => {
      const all = { ...everything, rms_norm: [10, 10] }
      const first = Object.fromEntries(Object.entries(all).filter(([part]) => !(part in experts(10))))
      expect(record({}, [tap])).toEqual({
        ...first,
        rms_norm: [10, 10, 2, 2],
        'moe.moe_router': [10, 2],
        embedding: [2],
        ...experts(2),
      })
      expect(record({ numLogitRows: 0 }, [tap])).toEqual(first)
    },
  )

  it.each(['hidden.*', 'moe.5.rank', 'moe.5.kept'])('is all of it where %s is observed', (tap) => {
    expect(record({}, [tap])).toEqual({ ...everything, embedding: [2] })
  })

  it('is all of it where tokens compete for experts, or all logits are wanted', () => {
    expect(record({ hasCapacity: true })).toEqual({ ...everything, embedding: [2] })
    expect(record({ numLogitRows: 10 })).toEqual({ ...everything, embedding: [10] })
  })

  it('does not depend on what is observed of other layers', () => {
    expect(record({}, ['hidden.4', 'moe.2.*', 'after_attention.0'])).toEqual(record({}))
  })
})

describe('a last row whose experts are full of rows that nobody wants', () => {
  it.each(['sequence', 'batch'] as const)("is dropped in '%s' mode", async (expertCapacity) => {
    const { cache, config, device, runner } = await openTinyRunner()
    const ids = [0, ...new Array<number>(59).fill(300)]
    const pages = cache.reserve(ids.length)!
    const run = (logitRows: number[], options: Partial<StepOptions> = {}) =>
      runner.step([{ ids, position: 0, pages, logitRows }], {
        expertCapacity,
        returnLogits: true,
        ...options,
      })
    const free = await run([59], { expertCapacity: 'dropless' }) // is recorded otherwise, and kept
    const { logits } = await run([59])
    const all = await run(upTo(60), { taps: ['moe.*.kept'] })
    const kept = [...all.taps.get('moe.5.kept')!.data.slice(-2)].map((row) => row >= 0)
    expect(kept).toContain(false) // or nothing was at stake
    expectSameBits(logits!, all.logits!.subarray(-config.vocabSize))
    expect(logits).not.toEqual(free.logits)
    await device.dispose()
  })
})
