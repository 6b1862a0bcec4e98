import { expect, it } from 'vitest'
import { moePermute } from '../../lib/ops/moe_permute.ts'
import type { HostTensor } from '../../lib/tensor.ts'
import { moePermute as reference } from '../reference/moe_permute.ts'
import { expectError } from '../support/expect_error.ts'
import { expectSameBits, opFixture, runWithThreads } from '../support/op_fixture.ts'
import { describeOp, f32, i32, random, randomTensor } from './describe_op.ts'

const SCENARIOS = ['plain', 'drops', 'groups', 'dropless', 'single_token', 'ties']
const SHAPES = [0, 1, 5, 33, 222].flatMap((tokens) =>
  [1, 7, 32, 511, 2048].map((width) => [tokens, width] as const),
)

/** Rows 0, 1, 2... handed to random choices; about one in five is dropped. */
function randomMap(seed: number, numTokens: number, topK: number): HostTensor {
  const next = random(seed)
  const order = Array.from({ length: numTokens * topK }, (_, i) => ({ i, key: next() })).sort(
    (a, b) => a.key - b.key,
  )
  const map = new Array<number>(order.length).fill(-1)
  let row = 0
  for (const { i } of order) if (next() > 0.2) map[i] = row++
  return i32(map, [numTokens, topK])
}

/** All rows belong to one expert, or to three that cut them where nothing else does. */
function routeOf(rowIdMap: HostTensor, numExperts = 1): { rowIdMap: HostTensor; expertOffsets: HostTensor } {
  const used = Math.min(1 + Math.max(-1, ...rowIdMap.data), rowIdMap.data.length)
  const ends = Array.from({ length: numExperts }, (_, e) => Math.floor((used * (e + 1)) / numExperts))
  return { rowIdMap, expertOffsets: i32([0, ...ends]) }
}

describeOp('moe_permute', ({ backend, isGpu, run, throughPanel, refusal }) => {
  const permute = (x: HostTensor, rowIdMap: HostTensor) => run((p) => moePermute(p, x, routeOf(rowIdMap)))

  it('copies each token to the rows of its choices', async () => {
    const out = await permute(f32([1, 2, 3, 4], [2, 2]), i32([3, 0, 1, 2], [2, 2]))
    expect([...out.data]).toEqual([1, 2, 3, 4, 3, 4, 1, 2])
    expect(out.shape).toEqual([4, 2])
  })

  it('leaves out dropped choices and zeroes the rows nobody maps to', async () => {
    const out = await permute(f32([1, 2, 3, 4], [2, 2]), i32([-1, 1, 0, -1], [2, 2]))
    expect([...out.data]).toEqual([3, 4, 1, 2, 0, 0, 0, 0])
  })

  it('zeroes such rows also when the memory held something else before', async () => {
    const [x, map] = [f32([5, 6], [1, 2]), i32([-1, 0], [1, 2])]
    const out = await run((p) => {
      const once = moePermute(p, f32([7, 7, 7, 7], [2, 2]), routeOf(i32([0, 1, 2, 3], [2, 2])))
      return [moePermute(p, x, routeOf(map)), once]
    })
    expect([...out[0]!.data]).toEqual([5, 6, 0, 0])
  })

  it.each(SCENARIOS)('matches the golden scenario %s', async (name) => {
    const get = await opFixture('permute')
    const out = await permute(get(`${name}.x`), get(`${name}.row_of`))
    const expected = get(`${name}.permuted`)
    const kept = Float32Array.from(throughPanel(expected.data))
    expectSameBits(out.data.subarray(0, kept.length), kept)
    expect(out.data.subarray(expected.data.length).every((v) => v === 0)).toBe(true)
  })

  it.each(SHAPES)('agrees with the reference at %i tokens of %i', async (tokens, width) => {
    for (const topK of [1, 2]) {
      const [x, map] = [randomTensor(1, [tokens, width]), randomMap(2, tokens, topK)]
      const expected = Float32Array.from(throughPanel(reference(x.data, map.data, tokens)))
      for (const numExperts of [1, 3]) {
        const out = await run((p) => moePermute(p, x, routeOf(map, numExperts)))
        expectSameBits(out.data, expected)
      }
    }
  })

  it('gives the same bits with 1 thread, and on the CPU even when two choices name one row', async () => {
    const x = randomTensor(1, [300, 96])
    const same = i32(Array.from({ length: 600 }, (_, i) => i % 50), [300, 2]) // prettier-ignore
    for (const rowIdMap of isGpu ? [randomMap(3, 300, 2)] : [randomMap(3, 300, 2), same]) {
      const out = await permute(x, rowIdMap)
      expectSameBits((await permute(x, rowIdMap)).data, out.data)
      expectSameBits(
        (await runWithThreads(backend, 1, (p) => moePermute(p, x, routeOf(rowIdMap)))).data,
        out.data,
      )
    }
  })

  it.each([-2, 4, 2 ** 31 - 1, -(2 ** 31)])('refuses the row %i', async (row) => {
    const message = new RegExp(
      `row_id_map\\[2\\] is ${row}, expected -1 or a row below num_tokens \\* top_k = 4`,
    )
    const result = permute(f32([1, 2], [2, 1]), i32([0, 1, row, 3], [2, 2]))
    await expectError(result, 'ERR_OPENMOE_INVALID_ARG', refusal(message))
  })

  it('refuses a map of other tokens', async () => {
    const message = /moe_permute: row_id_map is i32 \[1, 2\], expected i32 \[2, top_k\]/
    await expectError(
      () => permute(f32([1, 2], [2, 1]), i32([0, 1], [1, 2])),
      'ERR_OPENMOE_INVALID_ARG',
      message,
    )
  })
})
