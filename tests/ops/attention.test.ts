import { expect, it } from 'vitest'
import type { Device } from '../../lib/device.ts'
import { attention } from '../../lib/ops/attention.ts'
import { type BatchLayout, kvAppend, type KvPages } from '../../lib/ops/kv_append.ts'
import { type HostTensor, numElements, tensor } from '../../lib/tensor.ts'
import { attention as reference, type Heads } from '../reference/attention.ts'
import { expectError } from '../support/expect_error.ts'
import {
  expectClose,
  expectSameBits,
  F32_NMSE,
  opFixture,
  opsJson,
  rows,
  throughBf16,
} from '../support/op_fixture.ts'
import { freeCache, layoutOf, newCache, shuffledPages } from '../support/paged_cache.ts'
import { describeOp, f32, i32, nmse, openOther, randomTensor } from './describe_op.ts'

interface Sequence extends Heads {
  q: HostTensor // rows of the last q.shape[0] positions
  k: HostTensor // all positions
  v: HostTensor
}

function randomSequence(seed: number, length: number, queries: number, heads: Heads): Sequence {
  const { numHeads, numKvHeads, headDim } = heads
  return {
    ...heads,
    q: randomTensor(seed, [queries, numHeads * headDim], headDim ** -0.25),
    k: randomTensor(seed + 1, [length, numKvHeads * headDim], headDim ** -0.25),
    v: randomTensor(seed + 2, [length, numKvHeads * headDim]),
  }
}

const length = (s: Sequence) => s.k.shape[0] ?? 0
const firstPosition = (s: Sequence) => length(s) - (s.q.shape[0] ?? 0)
const concat = (parts: HostTensor[]): HostTensor => {
  const data = new Float32Array(parts.reduce((n, part) => n + part.data.length, 0))
  let at = 0
  for (const part of parts) {
    data.set(part.data, at)
    at += part.data.length
  }
  return tensor(data, [parts.reduce((n, part) => n + (part.shape[0] ?? 0), 0), parts[0]?.shape[1] ?? 0])
}

interface Options {
  dtype?: 'f32' | 'bf16'
  pageOrder?: (count: number) => number[]
}

/** Appends keys and values of all sequences, then runs all their queries as one batch; the output of each sequence. */
async function attend(device: Device, sequences: Sequence[], options: Options = {}): Promise<HostTensor[]> {
  const heads = sequences[0]!
  const blocks = sequences.map((s) => Math.ceil(length(s) / 32))
  const numPages = blocks.reduce((a, b) => a + b, 0)
  const order = (options.pageOrder ?? shuffledPages)(numPages)
  const pages = blocks.map((count) => order.splice(0, count))
  const cache = await newCache(device, { ...heads, numPages }, options.dtype)
  const append = layoutOf(sequences.map((s, i) => ({ count: length(s), position: 0, pages: pages[i]! })))
  const query = layoutOf(
    sequences.map((s, i) => ({ count: s.q.shape[0] ?? 0, position: firstPosition(s), pages: pages[i]! })),
  )
  const out = await device.run((p) => {
    kvAppend(p, concat(sequences.map((s) => s.k)), concat(sequences.map((s) => s.v)), cache, append)
    return attention(p, concat(sequences.map((s) => s.q)), cache, query, heads)
  })
  freeCache(device, cache)
  let row = 0
  return sequences.map((s) => rows(out, row, (row += s.q.shape[0] ?? 0)))
}

const expected = (s: Sequence, through = (x: ArrayLike<number>): ArrayLike<number> => x) =>
  reference(s.q.data, through(s.k.data), through(s.v.data), s, firstPosition(s))

const HEADS: Heads[] = [
  { numHeads: 1, numKvHeads: 1, headDim: 1 },
  { numHeads: 4, numKvHeads: 4, headDim: 16 },
  { numHeads: 3, numKvHeads: 1, headDim: 24 },
  { numHeads: 10, numKvHeads: 2, headDim: 37 },
  { numHeads: 2, numKvHeads: 2, headDim: 64 },
  { numHeads: 2, numKvHeads: 1, headDim: 128 },
]
const BASE: Heads = { numHeads: 4, numKvHeads: 2, headDim: 24 }

describeOp('attention', ({ backend, device }) => {
  it('gives the first token its own value', async () => {
    const s = randomSequence(1, 1, 1, { numHeads: 1, numKvHeads: 1, headDim: 5 })
    expectSameBits((await attend(device(), [s]))[0]!.data, s.v.data)
  })

  it('weighs values by the softmax of unscaled scores', async () => {
    const one = { numHeads: 1, numKvHeads: 1, headDim: 1 }
    const s = { ...one, q: f32([2], [1, 1]), k: f32([0, Math.LN2], [2, 1]), v: f32([0, 1], [2, 1]) }
    expect((await attend(device(), [s]))[0]!.data[0]).toBeCloseTo(0.8, 6) // scores 0 and ln 4
  })

  const { scenarios, atol } = opsJson<{
    scenarios: Record<string, { first_query_position: number }>
    atol: number
  }>('attention')
  it.each(Object.keys(scenarios))('matches the golden fixture %s', async (name) => {
    const get = await opFixture('attention')
    const [T = 0, numKvHeads = 0, headDim = 0] = get(`${name}.k`).shape
    const [S = 0, numHeads = 0] = get(`${name}.q`).shape
    expect(T - S).toBe(scenarios[name]?.first_query_position)
    const s = {
      ...{ numHeads, numKvHeads, headDim },
      q: get(`${name}.q`, [S, numHeads * headDim]),
      k: get(`${name}.k`, [T, numKvHeads * headDim]),
      v: get(`${name}.v`, [T, numKvHeads * headDim]),
    }
    expectClose((await attend(device(), [s]))[0]!.data, get(`${name}.y`).data, { atol })
  })

  const LENGTHS = [
    [1, 1],
    [5, 5],
    [31, 3],
    [32, 1],
    [33, 33],
    [64, 7],
    [100, 100],
    [257, 13],
  ] as const
  it.each(LENGTHS)('agrees with the reference at length %i, %i queries', async (T, S) => {
    for (const heads of HEADS) {
      const s = randomSequence(T, T, S, heads)
      expect(nmse((await attend(device(), [s]))[0]!.data, expected(s))).toBeLessThan(F32_NMSE)
      const [wide] = await attend(device(), [s], { dtype: 'bf16' })
      expect(nmse(wide!.data, expected(s, throughBf16))).toBeLessThan(F32_NMSE)
    }
  })

  it('agrees with the reference over a long context', async () => {
    const s = randomSequence(7, 2048, 3, { numHeads: 2, numKvHeads: 2, headDim: 64 })
    expect(nmse((await attend(device(), [s]))[0]!.data, expected(s))).toBeLessThan(F32_NMSE)
  })

  it('gives a batch of sequences, some without rows, what each gets alone, bit for bit', async () => {
    const sequences = [
      [40, 40],
      [1, 1],
      [70, 0],
      [100, 1],
      [65, 17],
    ] as const
    const batch = sequences.map(([T, S], i) => randomSequence(10 * i, T, S, BASE))
    const together = await attend(device(), batch)
    for (const [i, s] of batch.entries()) {
      if (numElements(s.q.shape) > 0)
        expectSameBits(together[i]!.data, (await attend(device(), [s]))[0]!.data)
    }
  })

  it.each([BASE, { numHeads: 3, numKvHeads: 3, headDim: 128 }])(
    'gives a query the same bits in a whole prompt, in chunks, and alone',
    async (heads) => {
      const whole = randomSequence(3, 150, 150, heads)
      const [all] = await attend(device(), [whole])
      for (const chunk of [1, 7, 16, 64]) {
        for (let end = chunk; end <= 150; end += chunk === 1 ? 29 : chunk) {
          const part = {
            ...heads,
            q: rows(whole.q, end - chunk, end),
            k: rows(whole.k, 0, end),
            v: rows(whole.v, 0, end),
          }
          expectSameBits((await attend(device(), [part]))[0]!.data, rows(all!, end - chunk, end).data)
        }
      }
    },
  )

  it('does not care in which order the pages lie', async () => {
    const s = randomSequence(5, 300, 20, BASE)
    const inOrder = (count: number) => Array.from({ length: count }, (_, i) => i)
    const [straight] = await attend(device(), [s], { pageOrder: inOrder })
    const [backwards] = await attend(device(), [s], { pageOrder: (count) => inOrder(count).reverse() })
    expectSameBits((await attend(device(), [s]))[0]!.data, straight!.data)
    expectSameBits(backwards!.data, straight!.data)
  })

  it('gives the same bits twice, and with 1 thread', async () => {
    const s = randomSequence(6, 200, 200, BASE)
    const [once] = await attend(device(), [s])
    expectSameBits((await attend(device(), [s]))[0]!.data, once!.data)
    await using single = await openOther(backend)
    expectSameBits((await attend(single, [s]))[0]!.data, once!.data)
  })

  // Heads go to threads one by one or several together, after the number of both.
  it('gives decode steps the same bits with any number of threads, and each sequence what it gets alone', async () => {
    const heads = { numHeads: 12, numKvHeads: 12, headDim: 64 }
    const steps = [33, 300, 700].map((T, i) => randomSequence(20 * i, T, 1, heads))
    const outputs = await attend(device(), steps, { dtype: 'bf16' })
    for (const threads of [1, 3, 8]) {
      await using other = await openOther(backend, threads)
      for (const [i, out] of (await attend(other, steps, { dtype: 'bf16' })).entries()) {
        expectSameBits(out.data, outputs[i]!.data)
      }
      const [alone] = await attend(other, [steps[1]!], { dtype: 'bf16' })
      expectSameBits(alone!.data, outputs[1]!.data)
    }
  })

  it('hides later keys and values from earlier queries, even infinite ones', async () => {
    const s = randomSequence(8, 40, 40, BASE)
    const [clean] = await attend(device(), [s])
    for (const poison of [Infinity, NaN]) {
      const poisoned = {
        ...s,
        k: tensor(s.k.data.slice(), s.k.shape),
        v: tensor(s.v.data.slice(), s.v.shape),
      }
      poisoned.k.data.fill(poison, 37 * 48, 38 * 48)
      poisoned.v.data.fill(poison, 37 * 48, 38 * 48)
      const [out] = await attend(device(), [poisoned])
      expectSameBits(rows(out!, 0, 37).data, rows(clean!, 0, 37).data)
      expect(out!.data.slice(37 * 96).every((x) => Number.isNaN(x))).toBe(true)
    }
  })

  // Values 0 and 1 under scores 0 and x show exp(x) / (1 + exp(x)). The exponential is good to 2 ulp, sum and quotient
  // add a half each.
  it('computes weights to the last bits over the whole range of the exponential', async () => {
    const one = { numHeads: 1, numKvHeads: 1, headDim: 1 }
    const xs = Array.from({ length: 350 }, (_, i) => Math.fround(-86.99 + i * 0.2485))
    const sequences = xs.map((x) => ({
      ...one,
      q: f32([1], [1, 1]),
      k: f32([0, x], [2, 1]),
      v: f32([0, 1], [2, 1]),
    }))
    const out = await attend(device(), sequences)
    xs.forEach((x, i) => {
      const exact = Math.exp(x) / (1 + Math.exp(x))
      expect(Math.abs(out[i]!.data[0]! / exact - 1), `x = ${x}`).toBeLessThanOrEqual(3 * 2 ** -23)
    })
  })

  it('returns nothing for no tokens', async () => {
    const [out] = await attend(device(), [randomSequence(1, 5, 0, BASE)])
    expect(out!.data).toHaveLength(0)
  })

  const HOSTILE: [string, RegExp, Partial<Record<keyof BatchLayout, number[]>>][] = [
    ['a page below 0', /block_table\[0\] is -1, expected at least 0 and below 2/, { blockTable: [-1, 0] }],
    ['a page of the history too high', /block_table\[0\] is 2, expected/, { blockTable: [2, 0] }],
    ['offsets that do not start at 0', /seq_offsets\[0\] is 1, expected 0/, { seqOffsets: [1, 1] }],
    ['offsets past the rows', /seq_offsets\[1\] is 9, expected num_tokens = 1/, { seqOffsets: [0, 9] }],
    ['a negative position', /seq_positions\[0\] is -1, expected at least 0/, { seqPositions: [-1] }],
    ['a position beyond the block table', /seq_positions\[0\] is 64, expected/, { seqPositions: [64] }],
    ['a position that overflows', /seq_positions\[0\] is 2147483647/, { seqPositions: [2 ** 31 - 1] }],
  ]
  const one: Heads = { numHeads: 1, numKvHeads: 1, headDim: 2 }
  const run = (cache: KvPages, batch: BatchLayout, heads = one) =>
    device().run((p) => attention(p, f32([1, 2], [1, 2]), cache, batch, heads))

  it.each(HOSTILE)('refuses %s', async (_, message, wrong) => {
    const batch = {
      blockTable: i32(wrong.blockTable ?? [0, 1], [1, 2]),
      seqOffsets: i32(wrong.seqOffsets ?? [0, 1]),
      seqPositions: i32(wrong.seqPositions ?? [33]),
    }
    const cache = await newCache(device(), { ...one, numPages: 2 })
    await expectError(run(cache, batch), 'ERR_OPENMOE_INVALID_ARG', message)
  })

  it('refuses heads that are no multiple of the kv heads, or not those of the pages', async () => {
    const batch = layoutOf([{ count: 1, position: 0, pages: [0] }])
    const cache = await newCache(device(), { numKvHeads: 2, headDim: 2, numPages: 1 })
    const odd = () => run(cache, batch, { numHeads: 3, numKvHeads: 2, headDim: 2 })
    await expectError(
      odd,
      'ERR_OPENMOE_INVALID_ARG',
      /num_heads is 3, expected a multiple of num_kv_heads = 2/,
    )
    await expectError(
      () => run(cache, batch),
      'ERR_OPENMOE_INVALID_ARG',
      /the pages hold 2 kv heads of 2, expected 1/,
    )
  })
})
