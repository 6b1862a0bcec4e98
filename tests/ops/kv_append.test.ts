import { expect, it } from 'vitest'
import { kvAppend, type BatchLayout, type KvPages } from '../../lib/ops/kv_append.ts'
import { add } from '../../lib/ops/add.ts'
import { type HostTensor, tensor } from '../../lib/tensor.ts'
import { keyIndex, kvAppend as reference, valueIndex } from '../reference/kv_append.ts'
import { expectError } from '../support/expect_error.ts'
import { expectSameBits, toBf16 } from '../support/op_fixture.ts'
import { freeCache, layoutOf, newCache, type Rows, shuffledPages } from '../support/paged_cache.ts'
import { describeOp, f32, i32, randomTensor } from './describe_op.ts'

describeOp('kv_append', ({ run, device }) => {
  const append = (k: HostTensor, v: HostTensor, cache: KvPages, batch: BatchLayout) =>
    run((p) => {
      kvAppend(p, k, v, cache, batch)
      return add(p, k, v) // a program has to return something
    })
  const small = async () => newCache(device(), { numPages: 3, numKvHeads: 1, headDim: 2 })

  it('puts position p into slot p % 32 of page p / 32: keys tokens last, values as they are', async () => {
    const cache = await small()
    const batch = layoutOf([{ count: 2, position: 31, pages: [2, 1] }])
    await append(f32([1, 2, 3, 4], [2, 2]), f32([5, 6, 7, 8], [2, 2]), cache, batch)
    const shape = { numKvHeads: 1, headDim: 2, dtype: 'f32' } as const
    const k = (await device().read(cache.kPages)).data
    const v = (await device().read(cache.vPages)).data
    expect([0, 1].map((d) => k[keyIndex(shape, 2, 31, 0, d)])).toEqual([1, 2])
    expect([0, 1].map((d) => k[keyIndex(shape, 1, 0, 0, d)])).toEqual([3, 4])
    expect([0, 1].map((d) => v[valueIndex(shape, 2, 31, 0, d)])).toEqual([5, 6])
    expect([0, 1].map((d) => v[valueIndex(shape, 1, 0, 0, d)])).toEqual([7, 8])
    expect(k.filter((x) => !Number.isNaN(x))).toHaveLength(4) // nothing else was touched
  })

  it.each(['f32', 'bf16'] as const)(
    'agrees with the reference in %s pages, at several sequences',
    async (dtype) => {
      for (const [numKvHeads, headDim] of [
        [1, 3],
        [3, 16],
        [2, 24],
        [12, 64],
        [2, 131],
      ] as const) {
        const pages = shuffledPages(12)
        const sequences: Rows[] = [
          { count: 40, position: 0, pages: pages.slice(0, 2) },
          { count: 0, position: 77, pages: [] },
          { count: 1, position: 63, pages: pages.slice(2, 4) },
          { count: 100, position: 30, pages: pages.slice(4, 9) },
        ]
        const width = numKvHeads * headDim
        const [k, v] = [randomTensor(1, [141, width]), randomTensor(2, [141, width])]
        const shape = { numPages: 12, numKvHeads, headDim, dtype }
        const cache = await newCache(device(), shape, dtype)
        await append(k, v, cache, layoutOf(sequences))
        let row = 0
        const ranges = sequences.map(({ count, position, pages }) => {
          row += count
          return { firstRow: row - count, endRow: row, firstPosition: position, pages }
        })
        const empty = new Float32Array(12 * width * 32).fill(NaN)
        const expected = reference(shape, { k: empty, v: empty }, { k: k.data, v: v.data }, ranges)
        for (const [actual, values] of [
          [cache.kPages, expected.k],
          [cache.vPages, expected.v],
        ] as const) {
          const { data } = await device().read(actual)
          if (dtype === 'f32') expectSameBits(data, Float32Array.from(values))
          else expectSameBits(data, toBf16(values))
        }
        freeCache(device(), cache)
      }
    },
  )

  it('writes nothing for heads without dimensions', async () => {
    const cache = await newCache(device(), { numPages: 3, numKvHeads: 2, headDim: 0 })
    const none = tensor(new Float32Array(0), [1, 0])
    await append(none, none, cache, layoutOf([{ count: 1, position: 0, pages: [0] }]))
    expect((await device().read(cache.kPages)).data).toHaveLength(0)
  })

  it('writes nothing for no tokens, and for no sequences', async () => {
    const cache = await small()
    const none = tensor(new Float32Array(0), [0, 2])
    await append(none, none, cache, layoutOf([{ count: 0, position: 0, pages: [] }]))
    await append(none, none, cache, layoutOf([]))
    expect((await device().read(cache.kPages)).data.every((x) => Number.isNaN(x))).toBe(true)
  })

  const HOSTILE: [string, RegExp, Partial<Record<keyof BatchLayout, number[]>>][] = [
    ['a page below 0', /block_table\[0\] is -1, expected at least 0 and below 3/, { blockTable: [-1, 0] }],
    ['a page too high', /block_table\[1\] is 3, expected/, { blockTable: [0, 3] }],
    ['offsets that do not start at 0', /seq_offsets\[0\] is 1, expected 0/, { seqOffsets: [1, 2] }],
    ['offsets that end early', /seq_offsets\[1\] is 1, expected num_tokens = 2/, { seqOffsets: [0, 1] }],
    ['offsets that fall', /seq_offsets\[1\] is -5, expected at least/, { seqOffsets: [0, -5] }],
    ['a negative position', /seq_positions\[0\] is -1, expected at least 0/, { seqPositions: [-1] }],
    ['rows beyond the block table', /seq_positions\[0\] is 63, expected/, { seqPositions: [63] }],
    ['a position that overflows', /seq_positions\[0\] is 2147483647/, { seqPositions: [2 ** 31 - 1] }],
  ]
  it.each(HOSTILE)('refuses %s', async (_, message, wrong) => {
    const cache = await small()
    const batch = {
      blockTable: i32(wrong.blockTable ?? [0, 1], [1, 2]),
      seqOffsets: i32(wrong.seqOffsets ?? [0, 2]),
      seqPositions: i32(wrong.seqPositions ?? [31]),
    }
    const rows = f32([1, 2, 3, 4], [2, 2])
    await expectError(append(rows, rows, cache, batch), 'ERR_OPENMOE_INVALID_ARG', message)
  })

  it('does not look at pages of positions it does not write', async () => {
    const rows = f32([1, 2], [1, 2])
    const batch = layoutOf([{ count: 1, position: 40, pages: [-7, 1, 12345] }])
    await append(rows, rows, await small(), batch)
  })

  it('refuses keys of another width than the pages', async () => {
    const cache = await small()
    const batch = layoutOf([{ count: 1, position: 0, pages: [0] }])
    const result = () => append(f32([1, 2, 3], [1, 3]), f32([1, 2], [1, 2]), cache, batch)
    await expectError(
      result,
      'ERR_OPENMOE_INVALID_ARG',
      /kv_append: k is f32 \[1, 3\], expected f32 \[num_tokens, 2\]/,
    )
  })
})
