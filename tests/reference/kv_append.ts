export interface PageShape {
  numKvHeads: number
  headDim: number
  /** Of bf16 keys, two neighbours in head_dim lie side by side. */
  dtype: 'f32' | 'bf16'
}

/** Where key (or value) `d` of `head` at a slot of a page is: the layout of native/ops/kv_append.h. */
export function keyIndex(s: PageShape, page: number, slot: number, head: number, d: number): number {
  const start = (page * s.numKvHeads + head) * s.headDim * 32
  const isPaired = s.dtype === 'bf16' && (d ^ 1) < s.headDim
  return start + (isPaired ? Math.floor(d / 2) * 64 + slot * 2 + (d % 2) : d * 32 + slot)
}
export const valueIndex = (s: PageShape, page: number, slot: number, head: number, d: number): number =>
  ((page * s.numKvHeads + head) * 32 + slot) * s.headDim + d

/** Writes rows first..end of a sequence, whose pages are given, into copies of the pages. */
export function kvAppend(
  shape: PageShape,
  pages: { k: ArrayLike<number>; v: ArrayLike<number> },
  rows: { k: ArrayLike<number>; v: ArrayLike<number> },
  sequences: { firstRow: number; endRow: number; firstPosition: number; pages: readonly number[] }[],
): { k: number[]; v: number[] } {
  const out = { k: Array.from(pages.k), v: Array.from(pages.v) }
  const { numKvHeads, headDim } = shape
  for (const seq of sequences) {
    for (let row = seq.firstRow; row < seq.endRow; row++) {
      const position = seq.firstPosition + row - seq.firstRow
      const page = seq.pages[Math.floor(position / 32)]!
      for (let head = 0; head < numKvHeads; head++) {
        for (let d = 0; d < headDim; d++) {
          const from = (row * numKvHeads + head) * headDim + d
          out.k[keyIndex(shape, page, position % 32, head, d)] = rows.k[from]!
          out.v[valueIndex(shape, page, position % 32, head, d)] = rows.v[from]!
        }
      }
    }
  }
  return out
}
