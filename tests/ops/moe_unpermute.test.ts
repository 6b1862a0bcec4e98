import { expect, it } from 'vitest'
import { moePermute } from '../../lib/ops/moe_permute.ts'
import { moeRouting } from '../../lib/ops/moe_routing.ts'
import { moeUnpermute } from '../../lib/ops/moe_unpermute.ts'
import { type HostTensor, tensor } from '../../lib/tensor.ts'
import { moeUnpermute as reference } from '../reference/moe_unpermute.ts'
import { expectError } from '../support/expect_error.ts'
import {
  expectClose,
  expectSameBits,
  F32_NMSE,
  opFixture,
  opsJson,
  rows,
  runWithThreads,
} from '../support/op_fixture.ts'
import { describeOp, f32, i32, nmse, random, randomTensor } from './describe_op.ts'

const SCENARIOS = ['plain', 'drops', 'groups', 'dropless', 'single_token', 'ties']
const SHAPES = [0, 1, 5, 33, 222].flatMap((tokens) =>
  [1, 7, 32, 511, 2048].map((width) => [tokens, width] as const),
)

/** Any row may serve any choice; about one in five is dropped. */
function randomMap(seed: number, numTokens: number, topK: number, numPermuted: number): HostTensor {
  const next = random(seed)
  const map = Array.from({ length: numTokens * topK }, () =>
    next() < 0.2 ? -1 : Math.floor(next() * numPermuted),
  )
  return i32(map, [numTokens, topK])
}

/** The rows lie in one expert: where experts begin only matters to a device that stores them in tiles. */
const routeOf = (permuted: HostTensor, rowIdMap: HostTensor) => ({
  rowIdMap,
  expertOffsets: i32([0, permuted.shape[0]!]),
})

describeOp('moe_unpermute', ({ backend, isGpu, run, throughPanel, refusal }) => {
  const unpermute = (
    permuted: HostTensor,
    rowIdMap: HostTensor,
    weights: HostTensor,
    residual?: HostTensor,
  ) => run((p) => moeUnpermute(p, permuted, routeOf(permuted, rowIdMap), weights, residual))

  it('adds the copies of a token, each times its weight', async () => {
    const out = await unpermute(f32([1, 2, 3, 4], [2, 2]), i32([1, 0], [1, 2]), f32([0.5, 0.25], [1, 2]))
    expect([...out.data]).toEqual([1.75, 2.5])
  })

  it('adds nothing for a dropped copy, even where its weight is NaN', async () => {
    const weights = f32([NaN, 2, NaN, NaN], [2, 2])
    const out = await unpermute(f32([3, 4], [1, 2]), i32([-1, 0, -1, -1], [2, 2]), weights)
    expect([...out.data]).toEqual([6, 8, 0, 0])
  })

  it.each(SCENARIOS)('matches the golden scenario %s', async (name) => {
    const get = await opFixture('permute')
    const { atol } = opsJson<{ atol: number }>('permute')
    const out = await unpermute(get(`${name}.expert_rows`), get(`${name}.row_of`), get(`${name}.topk_prob`))
    const { data: combined } = get(`${name}.combined`)
    // Rows rounded to bf16 are off by up to 2^-8 of themselves; the two weights are together at most 1.
    const largest = Math.max(...get(`${name}.expert_rows`).data.map(Math.abs))
    expectClose(out.data, combined, { atol: isGpu ? atol + largest * 2 ** -8 : atol })
  })

  it.each(SHAPES)('agrees with the reference at %i tokens of %i', async (tokens, width) => {
    for (const topK of [1, 2, 3]) {
      const numPermuted = tokens * topK
      const permuted = randomTensor(1, [numPermuted, width])
      const map = randomMap(2, tokens, topK, numPermuted)
      const weights = randomTensor(3, [tokens, topK])
      const out = await unpermute(permuted, map, weights)
      const shape = { numTokens: tokens, topK, hiddenSize: width }
      const expected = reference(throughPanel(permuted.data), map.data, weights.data, shape)
      expect(nmse(out.data, expected)).toBeLessThan(F32_NMSE)
    }
  })

  it.each([
    [1, 7],
    [33, 511],
  ])(
    'adds the residual last, so it has the bits of a sum made after it (%i tokens of %i)',
    async (tokens, width) => {
      const [permuted, x] = [randomTensor(1, [2 * tokens, width]), randomTensor(5, [tokens, width])]
      const map = randomMap(2, tokens, 2, 2 * tokens)
      const weights = randomTensor(3, [tokens, 2])
      const branch = await unpermute(permuted, map, weights)
      const fused = await unpermute(permuted, map, weights, x)
      expectSameBits(
        fused.data,
        Float32Array.from(x.data, (v, i) => v + branch.data[i]!),
      )
    },
  )

  it('undoes moe_permute: with identity experts a token comes back times the sum of its weights', async () => {
    const [tokens, width, numExperts] = [129, 511, 8]
    const x = randomTensor(1, [tokens, width])
    const next = random(2)
    const ids = Array.from({ length: 2 * tokens }, () => Math.floor(numExperts * next()))
    // powers of two: products are exact, so the one rounding left is that of the sum, which Σweights·x has too
    const weights = f32(
      Array.from(ids, () => 2 ** -Math.floor(4 * next())),
      [tokens, 2],
    )
    const [out, map] = await run((p) => {
      const options = { numExperts, groupOffsets: i32([0, tokens]), capacity: i32([24]) }
      const route = moeRouting(p, i32(ids, [tokens, 2]), options)
      return [moeUnpermute(p, moePermute(p, x, route), route, weights), route.rowIdMap] as const
    })
    expect([...map.data].filter((row) => row < 0).length).toBeGreaterThan(10)
    const sums = Array.from({ length: tokens }, (_, t) =>
      [0, 1].reduce((sum, k) => sum + (map.data[2 * t + k]! >= 0 ? weights.data[2 * t + k]! : 0), 0),
    )
    expectSameBits(
      out.data,
      Float32Array.from(throughPanel(x.data), (v, i) => sums[Math.floor(i / width)]! * v + 0), // + 0: a sum is never -0
    )
  })

  it('adds in the order of the choices, so a token has the same bits whatever its rows are', async () => {
    const x = randomTensor(1, [4, 33])
    const weights = randomTensor(2, [1, 4])
    const reversed = tensor(
      Float32Array.from([3, 2, 1, 0].flatMap((row) => [...x.data.slice(row * 33, row * 33 + 33)])),
      [4, 33],
    )
    const out = await unpermute(x, i32([0, 1, 2, 3], [1, 4]), weights)
    expectSameBits((await unpermute(reversed, i32([3, 2, 1, 0], [1, 4]), weights)).data, out.data)
  })

  it('gives a token the same bits alone, among neighbours, twice, and with 1 thread', async () => {
    const permuted = randomTensor(1, [400, 511])
    const rowIdMap = randomMap(2, 200, 2, 400)
    const weights = randomTensor(3, [200, 2])
    const all = await unpermute(permuted, rowIdMap, weights)
    expectSameBits((await unpermute(permuted, rowIdMap, weights)).data, all.data)
    const serial = await runWithThreads(backend, 1, (p) =>
      moeUnpermute(p, permuted, routeOf(permuted, rowIdMap), weights),
    )
    expectSameBits(serial.data, all.data)
    for (const t of [0, 101, 199]) {
      const alone = await unpermute(permuted, rows(rowIdMap, t, t + 1), rows(weights, t, t + 1))
      expectSameBits(alone.data, rows(all, t, t + 1).data)
    }
  })

  it.each([-2, 3, 2 ** 31 - 1, -(2 ** 31)])('refuses the row %i', async (row) => {
    const message = new RegExp(`row_id_map\\[1\\] is ${row}, expected -1 or a row below num_permuted = 3`)
    const result = unpermute(f32([1, 2, 3], [3, 1]), i32([0, row], [1, 2]), f32([1, 1], [1, 2]))
    await expectError(result, 'ERR_OPENMOE_INVALID_ARG', refusal(message))
  })

  it('refuses weights of another shape than the map', async () => {
    const message = /moe_unpermute: row_id_map is i32 \[1, 2\], expected i32 \[1, 1\]/
    const result = () => unpermute(f32([1], [1, 1]), i32([0, 0], [1, 2]), f32([1], [1, 1]))
    await expectError(result, 'ERR_OPENMOE_INVALID_ARG', message)
  })
})
