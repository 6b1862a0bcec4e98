import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { capacityFor, expertCapacity, isMoeLayer, parseConfig } from '../../lib/model/config.ts'
import { countParameters, memoryPerDtype } from '../../lib/model/parameter_count.ts'
import { expectError } from '../support/expect_error.ts'
import { goldenJson } from '../support/golden.ts'
import { BASE, LARGE, RELEASED_8B } from '../support/released_configs.ts'

const parse = (json: unknown) => parseConfig(json, { file: 'm/config.json' })

describe('parameter count', () => {
  // Spec section 2: total, active blocks, + embedding, + head, as printed there.
  it.each([
    ['base', BASE, 799.7e6, 141.6e6, 338.5e6, 535.4e6, 0.05e6],
    ['8B', RELEASED_8B, 11.855e9, 2.752e9, 3.277e9, 3.802e9, 0.5e6],
    ['34B', LARGE, 46.271e9, 8.457e9, 9.244e9, 10.03e9, 2e6],
  ])('of the %s is the one of the spec', (_, json, total, blocks, withEmbedding, withHead, within) => {
    const count = countParameters(parse(json).config)
    const near = (value: number, expected: number) =>
      expect(Math.abs(value - expected)).toBeLessThanOrEqual(within)
    near(count.total, total)
    near(count.activeBlocks, blocks)
    near(count.activeBlocks + count.embedding, withEmbedding)
    near(count.active, withHead)
  })

  it('is the sum of its parts', () => {
    const { total, embedding, head, attention, denseMlp, experts, routers, norms } = countParameters(
      parse(BASE).config,
    )
    expect(total).toBe(embedding + head + attention + denseMlp + experts + routers + norms)
  })

  it('counts grouped heads', () => {
    const all = countParameters(parse(BASE).config).attention
    expect(countParameters(parse({ ...BASE, num_key_value_heads: 3 }).config).attention).toBe(
      (all * (12 + 3)) / 24,
    )
  })

  it('gives the memory of the spec for the 8B', () => {
    const memory = memoryPerDtype(parse(RELEASED_8B).config)
    expect(memory.f32 / 1e9).toBeCloseTo(47.4, 1)
    expect(memory.bf16 / 1e9).toBeCloseTo(23.7, 1)
    expect(memory.int8).toBeLessThan(0.56 * memory.bf16)
    expect(memory.int4).toBeLessThan(0.32 * memory.bf16)
    expect(memory.kvCachePerToken).toEqual({ f32: 2 * 24 * 24 * 128 * 4, bf16: 2 * 24 * 24 * 128 * 2 })
  })
})

describe('capacity', () => {
  const cases =
    goldenJson<{ tokens: number; experts: number; factor: number; min: number; pytorch: number }[]>(
      'ops/capacity.json',
    )

  it(`agrees with the reference in ${cases.length} cases`, () => {
    expect(cases.length).toBeGreaterThan(50)
    for (const { tokens, experts, factor, min, pytorch } of cases) {
      expect(expertCapacity(tokens, experts, 2, factor, min), `${tokens} ${experts} ${factor}`).toBe(pytorch)
    }
  })

  it('takes the eval factor unless training', () => {
    const { config } = parse(RELEASED_8B)
    expect([capacityFor(config, 2048), capacityFor(config, 2048, { train: true })]).toEqual([256, 160])
    expect([capacityFor(config, 1), capacityFor(config, 0)]).toEqual([4, 4])
  })

  it('is a 32-bit count for any config that is accepted', async () => {
    const { config } = parse({ ...RELEASED_8B, router_capacity_factor_eval: 1000 })
    expect(capacityFor(config, 2 ** 40)).toBe(2 ** 31 - 1)
    await expectError(() => capacityFor(config, 1.5), 'ERR_OPENMOE_INVALID_ARG')
  })

  it('is even or the minimum', () => {
    const { config } = parse(RELEASED_8B)
    fc.assert(
      fc.property(fc.nat(1_000_000), (n) => capacityFor(config, n) % 2 === 0),
      { numRuns: 1000 },
    )
  })
})

it('makes every moe_layer_interval-th layer a MoE layer', () => {
  const { config } = parse(RELEASED_8B)
  expect(Array.from({ length: 24 }, (_, i) => i).filter((i) => isMoeLayer(config, i))).toEqual([
    5, 11, 17, 23,
  ])
})
