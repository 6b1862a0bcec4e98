import { expect, it } from 'vitest'
import { moeGating } from '../../lib/ops/moe_gating.ts'
import { moeRouter } from '../../lib/ops/moe_router.ts'
import type { HostTensor } from '../../lib/tensor.ts'
import { moeGating as gatingReference } from '../reference/moe_gating.ts'
import { moeRouter as reference } from '../reference/moe_router.ts'
import { expectError } from '../support/expect_error.ts'
import { expectClose, expectSameBits, F32_NMSE, rows, runWithThreads } from '../support/op_fixture.ts'
import { describeOp, f32, nmse, randomTensor } from './describe_op.ts'

/** num_tokens, num_experts, hidden_size */
const SHAPES = [
  [0, 8, 64],
  [1, 1, 1],
  [1, 32, 2048],
  [3, 7, 129],
  [5, 33, 100],
  [17, 16, 768],
  [70, 32, 257],
] as const
const PROB_ATOL = 1e-6

describeOp('moe_router', ({ backend, run }) => {
  const route = (x: HostTensor, weight: HostTensor, topK?: number) =>
    run((p) => ({ ...moeRouter(p, x, weight, topK) }))

  it('scores every expert, and takes the two best with their probabilities as they are', async () => {
    const z = [0.1, 0.2, 0.3, 0.4].map(Math.log)
    const weight = f32(
      z.flatMap((v) => [v, -v]),
      [4, 2],
    )
    const { routerLogits, expertIds, expertWeights } = await route(f32([1, 0, 0, -1], [2, 2]), weight)
    expectClose(routerLogits.data, [...z, ...z], { atol: 1e-6 })
    expect([...expertIds.data]).toEqual([3, 2, 3, 2])
    expectClose(expertWeights.data, [0.4, 0.3, 0.4, 0.3], { atol: PROB_ATOL })
  })

  it('gives ties to the lowest index', async () => {
    const { expertIds } = await route(f32([1], [1, 1]), f32([0, 5, 5, 5], [4, 1]))
    expect([...expertIds.data]).toEqual([1, 2])
  })

  it.each(SHAPES)(
    'agrees with the reference at %i tokens, %i experts of %i',
    async (tokens, experts, width) => {
      const x = randomTensor(1, [tokens, width])
      const weight = randomTensor(2, [experts, width], 1 / Math.sqrt(width))
      for (const topK of [1, 2, 4].filter((k) => k <= experts)) {
        const actual = await route(x, weight, topK)
        const { routerLogits } = reference(x.data, weight.data, experts, topK)
        expect(nmse(actual.routerLogits.data, routerLogits)).toBeLessThan(F32_NMSE)
        // The choice is that of its own logits, whatever their last bit: near ties may differ from f64.
        const chosen = gatingReference(actual.routerLogits.data, experts, topK)
        expect([...actual.expertIds.data]).toEqual(chosen.expertIds)
        expectClose(actual.expertWeights.data, chosen.expertWeights, { atol: PROB_ATOL })
      }
    },
  )

  it('has the bits of moe_gating on its logits', async () => {
    const [x, weight] = [randomTensor(3, [50, 96]), randomTensor(4, [32, 96])]
    const fused = await route(x, weight)
    const alone = await run((p) => moeGating(p, fused.routerLogits))
    expectSameBits(fused.expertIds.data, alone.expertIds.data)
    expectSameBits(fused.expertWeights.data, alone.expertWeights.data)
  })

  it('gives a row the same bits alone, among neighbours, twice, and with 1 thread', async () => {
    const [x, weight] = [randomTensor(5, [200, 300]), randomTensor(6, [32, 300])]
    const all = await route(x, weight)
    const again = [
      await route(x, weight),
      await runWithThreads(backend, 1, (p) => ({ ...moeRouter(p, x, weight) })),
    ]
    for (const other of again) expectSameBits(other.routerLogits.data, all.routerLogits.data)
    for (const t of [0, 77, 199]) {
      const alone = await route(rows(x, t, t + 1), weight)
      expectSameBits(alone.routerLogits.data, rows(all.routerLogits, t, t + 1).data)
      expectSameBits(alone.expertIds.data, rows(all.expertIds, t, t + 1).data)
    }
  })

  it('gives valid and distinct ids when x holds NaN, and shows it in the weights', async () => {
    const { expertIds, expertWeights } = await route(f32([NaN, 1], [1, 2]), f32([1, 0, 0, 1, 1, 1], [3, 2]))
    expect([...expertIds.data]).toEqual([0, 1])
    expect([...expertWeights.data].every(Number.isNaN)).toBe(true)
  })

  it('refuses more choices than experts, none, and weights of another width', async () => {
    const x = f32([1, 2], [1, 2])
    const weight = f32([1, 2, 3, 4], [2, 2])
    for (const topK of [0, 3]) {
      const message = new RegExp(`moe_router: top_k is ${topK}, expected 1 to 2`)
      await expectError(() => route(x, weight, topK), 'ERR_OPENMOE_INVALID_ARG', message)
    }
    const narrow = () => route(x, f32([1, 2], [2, 1]))
    await expectError(
      narrow,
      'ERR_OPENMOE_INVALID_ARG',
      /moe_router: weight is f32 \[2, 1\], expected f32 \[num_experts, 2\]/,
    )
  })
})
