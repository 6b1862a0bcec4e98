import { expect, it } from 'vitest'
import { moeRouting } from '../../lib/ops/moe_routing.ts'
import { moeRouting as reference, type RoutingCase } from '../reference/moe_routing.ts'
import { expectError } from '../support/expect_error.ts'
import { opFixture, opsJson, runWithThreads } from '../support/op_fixture.ts'
import { describeOp, i32, random } from './describe_op.ts'

interface Scenario {
  mode: 'batch' | 'sequence' | 'dropless'
  capacity_per_group: number[]
}
const SCENARIOS = opsJson<{ scenarios: Record<string, Scenario> }>('top2_gate').scenarios
const TOKENS = [...Array(71).keys(), 127, 128, 129, 512, 2048]
const FACTORS = [1, 1.25, 2].flatMap((factor) => [0, 2, 4].map((least) => [factor, least] as const))

/** Two distinct experts per token; `skew` makes low ids popular. */
function randomChoices(seed: number, numTokens: number, numExperts: number, skew: number): number[][] {
  const next = random(seed)
  const pick = () => Math.min(numExperts - 1, Math.floor(numExperts * next() ** skew))
  return Array.from({ length: numTokens }, () => {
    const first = pick()
    let second = pick()
    while (second === first) second = Math.floor(numExperts * next())
    return [first, second]
  })
}

/** Spec 4.2. */
function expertCapacity(numTokens: number, numExperts: number, factor: number, least: number): number {
  const slots = Math.floor((2 * factor * numTokens) / numExperts)
  return Math.max(slots + (slots % 2), least)
}

describeOp('moe_routing', ({ backend, isEmulated, run, refusal }) => {
  const record = (c: RoutingCase) => (p: Parameters<typeof moeRouting>[0]) =>
    moeRouting(p, i32(c.expertIds.flat(), [c.expertIds.length, c.expertIds[0]?.length ?? 2]), {
      numExperts: c.numExperts,
      groupOffsets: i32(c.groupOffsets),
      capacity: i32(c.capacity),
    })
  const route = async (c: RoutingCase) => {
    const { expertOffsets, rowIdMap, rank } = await run((p) => ({ ...record(c)(p) }))
    return { expertOffsets: [...expertOffsets.data], rowIdMap: [...rowIdMap.data], rank: [...rank.data] }
  }
  const oneGroup = (expertIds: number[][], numExperts: number, capacity = -1): RoutingCase => ({
    expertIds,
    numExperts,
    groupOffsets: [0, expertIds.length],
    capacity: [capacity],
  })

  it('gives each expert a range of rows, in the order of the experts', async () => {
    const { expertOffsets, rowIdMap } = await route(oneGroup([[2, 0], [0, 1], [1, 2]], 3)) // prettier-ignore
    expect(expertOffsets).toEqual([0, 2, 4, 6])
    expect(rowIdMap).toEqual([4, 1, 0, 3, 2, 5])
  })

  it('places all first choices before any second choice', async () => {
    const { rank, rowIdMap } = await route(oneGroup([[0, 1], [1, 0], [1, 0]], 2)) // prettier-ignore
    expect(rank).toEqual([0, 2, 0, 1, 1, 2])
    expect(rowIdMap).toEqual([0, 5, 3, 1, 4, 2])
  })

  it('drops the choices past capacity, maps them to row -1, and keeps their rank', async () => {
    const { rank, rowIdMap, expertOffsets } = await route(oneGroup([[0, 1], [0, 1], [1, 0]], 2, 2)) // prettier-ignore
    expect(rank).toEqual([0, 1, 1, 2, 0, 2])
    expect(rowIdMap).toEqual([0, 3, 1, -1, 2, -1])
    expect(expertOffsets).toEqual([0, 2, 4])
  })

  it('counts ranks within each capacity group, and lays groups side by side within an expert', async () => {
    const ids = [[0, 1], [0, 1], [0, 1], [1, 0]] // prettier-ignore
    const c = { expertIds: ids, numExperts: 2, groupOffsets: [0, 2, 2, 4], capacity: [1, 0, 2] }
    const { rank, rowIdMap, expertOffsets } = await route(c)
    expect(rank).toEqual([0, 0, 1, 1, 0, 1, 0, 1])
    expect(rowIdMap).toEqual([0, 3, -1, -1, 1, 5, 4, 2])
    expect(expertOffsets).toEqual([0, 3, 6])
  })

  it('gives an expert without tokens an empty range', async () => {
    expect((await route(oneGroup([[3, 3]], 6))).expertOffsets).toEqual([0, 0, 0, 0, 2, 2, 2])
    expect((await route(oneGroup([], 3))).expertOffsets).toEqual([0, 0, 0, 0])
    const none = { expertIds: [], numExperts: 2, groupOffsets: [0], capacity: [] }
    expect((await route(none)).expertOffsets).toEqual([0, 0, 0])
  })

  it('drops everything at capacity 0 and nothing at a negative one', async () => {
    const ids = randomChoices(1, 50, 4, 3)
    expect((await route(oneGroup(ids, 4, 0))).rowIdMap.every((row) => row === -1)).toBe(true)
    const { rowIdMap } = await route(oneGroup(ids, 4, -1))
    expect(rowIdMap.toSorted((a, b) => a - b)).toEqual([...Array(100).keys()])
  })

  it.each(Object.entries(SCENARIOS))('matches the golden scenario %s', async (name, scenario) => {
    const gate = await opFixture('top2_gate')
    const permute = await opFixture('permute')
    const ids = gate(`${name}.topk_index`)
    const group = [...gate(`${name}.group`).data]
    const numGroups = Math.max(...group) + 1
    const result = await route({
      expertIds: group.map((_, t) => [ids.data[2 * t]!, ids.data[2 * t + 1]!]),
      numExperts: gate(`${name}.router_logits`).shape[1]!,
      groupOffsets: Array.from({ length: numGroups + 1 }, (_, g) => group.filter((x) => x < g).length),
      capacity: Array.from({ length: numGroups }, (_, g) => scenario.capacity_per_group[g] ?? -1),
    })
    expect(result.rank).toEqual([...gate(`${name}.rank`).data])
    expect(result.rowIdMap.map((row) => (row >= 0 ? 1 : 0))).toEqual([...gate(`${name}.kept`).data])
    expect(result.rowIdMap).toEqual([...permute(`${name}.row_of`).data])
    expect(result.expertOffsets).toEqual([...permute(`${name}.expert_offsets`).data])
  })

  it.each(FACTORS)('agrees with the oracle at capacity factor %f, at least %i', async (factor, least) => {
    for (const numTokens of TOKENS) {
      // the oracle is quadratic: long rows once are enough
      if (numTokens > 500 && least !== 2) continue
      if (isEmulated && numTokens % 8 > 1 && numTokens !== 127) continue
      const numExperts = [8, 32][numTokens % 2]!
      const ids = randomChoices(numTokens, numTokens, numExperts, 1 + (numTokens % 3))
      const c = oneGroup(ids, numExperts, expertCapacity(numTokens, numExperts, factor, least))
      expect(await route(c), `${numTokens} tokens`).toEqual(reference(c))
    }
  })

  it('agrees with the oracle over random groups, some of them empty, and other top_k', async () => {
    const next = random(7)
    const below = (n: number) => Math.floor(n * next())
    for (let trial = 0; trial < 40; trial++) {
      const sizes = Array.from({ length: 1 + below(6) }, () => below(2) * below(30))
      const numTokens = sizes.reduce((a, b) => a + b, 0)
      const [numExperts, topK] = [1 + below(9), 1 + below(3)]
      const c = {
        expertIds: Array.from({ length: numTokens }, () =>
          Array.from({ length: topK }, () => below(numExperts)),
        ),
        numExperts,
        groupOffsets: sizes.reduce((offsets, n) => [...offsets, offsets.at(-1)! + n], [0]),
        capacity: sizes.map(() => below(8) - 1),
      }
      expect(await route(c)).toEqual(reference(c))
    }
  })

  it('gives a group the same ranks alone and among others, and the same result with 1 thread', async () => {
    const ids = randomChoices(3, 90, 8, 2)
    const all = { expertIds: ids, numExperts: 8, groupOffsets: [0, 40, 90], capacity: [6, 4] }
    const result = await route(all)
    const alone = await route(oneGroup(ids.slice(40), 8, 4))
    expect(result.rank.slice(80)).toEqual(alone.rank)
    expect(result.rowIdMap.slice(80).map((row) => row < 0)).toEqual(alone.rowIdMap.map((row) => row < 0))
    const { rowIdMap } = await runWithThreads(backend, 1, (p) => ({ ...record(all)(p) }))
    expect([...rowIdMap.data]).toEqual(result.rowIdMap)
  })

  const FINE = oneGroup([[0, 1], [1, 0]], 2) // prettier-ignore
  it.each<[string, RegExp, Partial<RoutingCase>]>([
    ['a negative expert', /expert_ids\[2\] is -1, expected 0 to num_experts - 1 = 1/, { expertIds: [[0, 1], [-1, 0]] }], // prettier-ignore
    ['an expert too high', /expert_ids\[1\] is 2, expected 0 to/, { expertIds: [[0, 2], [1, 0]] }], // prettier-ignore
    ['groups that do not start at 0', /group_offsets\[0\] is 1, expected 0/, { groupOffsets: [1, 2] }],
    ['groups that end early', /group_offsets\[1\] is 1, expected num_tokens = 2/, { groupOffsets: [0, 1] }],
    ['groups that end late', /group_offsets\[1\] is 9, expected num_tokens = 2/, { groupOffsets: [0, 9] }],
    ['groups that fall', /group_offsets\[2\] is 2, expected at least the entry before, 5/, { groupOffsets: [0, 5, 2], capacity: [1, 1] }], // prettier-ignore
  ])('refuses %s', async (_, message, wrong) => {
    await expectError(() => route({ ...FINE, ...wrong }), 'ERR_OPENMOE_INVALID_ARG', refusal(message))
  })

  it('refuses offsets that do not fit the number of groups', async () => {
    const message = /moe_routing: group_offsets is i32 \[2\], expected i32 \[3\]/
    await expectError(() => route({ ...FINE, capacity: [1, 1] }), 'ERR_OPENMOE_INVALID_ARG', message)
  })
})
