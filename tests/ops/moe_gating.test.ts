import { expect, it } from 'vitest'
import { moeGating } from '../../lib/ops/moe_gating.ts'
import type { HostTensor } from '../../lib/tensor.ts'
import { moeGating as reference } from '../reference/moe_gating.ts'
import { expectError } from '../support/expect_error.ts'
import {
  expectClose,
  expectSameBits,
  opFixture,
  opsJson,
  rows,
  runWithThreads,
} from '../support/op_fixture.ts'
import { describeOp, f32, randomTensor } from './describe_op.ts'

const SHAPES = [0, 1, 5, 33, 222, 2256].flatMap((tokens) =>
  [1, 2, 8, 15, 32, 33, 64].map((experts) => [tokens, experts] as const),
)
const SCENARIOS = ['plain', 'drops', 'groups', 'dropless', 'single_token', 'ties']
const PROB_ATOL = 1e-6

describeOp('moe_gating', ({ backend, isEmulated, run }) => {
  const shapes = SHAPES.filter(([tokens]) => !isEmulated || tokens <= 33)
  const gate = (logits: HostTensor, topK?: number) => run((p) => moeGating(p, logits, topK))

  it('takes the two most probable experts, best first, with their probabilities as they are', async () => {
    const z = [0.1, 0.2, 0.3, 0.4].map(Math.log)
    const { expertIds, expertWeights } = await gate(f32([...z, ...z.toReversed()], [2, 4]))
    expect([...expertIds.data]).toEqual([3, 2, 0, 1])
    expectClose(expertWeights.data, [0.4, 0.3, 0.4, 0.3], { atol: PROB_ATOL })
  })

  it('gives ties to the lowest index', async () => {
    const { expertIds } = await gate(f32([0, 0, 0, 0, 1, 2, 2, 2, 7, -7, 7, 7], [3, 4]))
    expect([...expertIds.data]).toEqual([0, 1, 1, 2, 0, 2])
  })

  it('keeps the order of logits whose probabilities round to one float', async () => {
    const { expertIds, expertWeights } = await gate(f32([-300, -200, 1e-30, 2e-30], [1, 4]))
    expect([...expertIds.data]).toEqual([3, 2])
    expect(expertWeights.data[0]).toBe(expertWeights.data[1])
  })

  it.each(SCENARIOS)('matches the golden scenario %s', async (scenario) => {
    const get = await opFixture('top2_gate')
    const { expertIds, expertWeights } = await gate(get(`${scenario}.router_logits`))
    expect([...expertIds.data]).toEqual([...get(`${scenario}.topk_index`).data])
    const { prob_atol } = opsJson<{ prob_atol: number }>('top2_gate')
    expectClose(expertWeights.data, get(`${scenario}.topk_prob`).data, { atol: prob_atol })
  })

  it.each(shapes)('agrees with the reference at %i tokens of %i experts', async (tokens, experts) => {
    const logits = randomTensor(tokens + experts, [tokens, experts], 3)
    for (const topK of [1, 2, 8].filter((k) => k <= experts)) {
      const { expertIds, expertWeights } = await gate(logits, topK)
      const expected = reference(logits.data, experts, topK)
      expect([...expertIds.data]).toEqual(expected.expertIds)
      expectClose(expertWeights.data, expected.expertWeights, { atol: PROB_ATOL })
    }
  })

  it('gives a row the same bits alone, among neighbours, twice, and with 1 thread', async () => {
    const tokens = isEmulated ? 100 : 1000
    const logits = randomTensor(1, [tokens, 33], 2)
    const all = await gate(logits)
    const again = [await gate(logits), await runWithThreads(backend, 1, (p) => moeGating(p, logits))]
    for (const other of again) {
      expectSameBits(other.expertIds.data, all.expertIds.data)
      expectSameBits(other.expertWeights.data, all.expertWeights.data)
    }
    for (const t of [0, tokens / 2, tokens - 1]) {
      const alone = await gate(rows(logits, t, t + 1))
      expectSameBits(alone.expertIds.data, rows(all.expertIds, t, t + 1).data)
      expectSameBits(alone.expertWeights.data, rows(all.expertWeights, t, t + 1).data)
    }
  })

  it('gives valid and distinct ids whatever the logits hold, and shows NaN in the weights', async () => {
    const [nan, inf] = [NaN, Infinity]
    const strange = [nan, nan, nan, 1, nan, 2, -inf, -inf, -inf, inf, nan, inf, nan, -inf, -inf]
    const { expertIds, expertWeights } = await gate(f32(strange, [5, 3]))
    expect([...expertIds.data]).toEqual([0, 1, 2, 0, 0, 1, 0, 2, 0, 1])
    expect([...expertWeights.data].every(Number.isNaN)).toBe(true)
    const all = await gate(f32([nan, 3, -inf], [1, 3]), 3)
    expect([...all.expertIds.data]).toEqual([1, 0, 2])
  })

  it('gives an expert that is out of reach the weight nothing', async () => {
    const { expertWeights } = await gate(f32([1e30, -1e30], [1, 2]))
    expect(expertWeights.data[0]).toBe(1)
    expect(expertWeights.data[1]).toBeLessThan(1e-37)
  })

  it('refuses more choices than experts, and none', async () => {
    for (const topK of [0, 3]) {
      const message = new RegExp(`moe_gating: top_k is ${topK}, expected 1 to 2`)
      await expectError(() => gate(f32([1, 2], [1, 2]), topK), 'ERR_OPENMOE_INVALID_ARG', message)
    }
  })
})
