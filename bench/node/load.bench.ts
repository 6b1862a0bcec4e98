// Loading a checkpoint against reading its file: both from the page cache.
import { open, stat } from 'node:fs/promises'
import { loadModel } from '#lib/model/load_model'
import { measurePairs, type NodeBench } from './node_bench.ts'
import { withCheckpoint } from './synthetic_model.ts'

const PAIRS = 6
const BLOCK = 1 << 20 // stays in the cache it is read into, as in the loader

export const loadBench: NodeBench = {
  name: 'node.load',
  run: ({ lab, suite, shape }) => {
    if (shape.layers === 0) return Promise.resolve([])
    const { options } = suite
    return withCheckpoint(shape, async (folder, file) => {
      const load = async (): Promise<number> => {
        const start = performance.now()
        const model = await loadModel(folder, {
          ...suite.deviceOptions,
          dtype: shape.dtype,
          maxSequences: 1,
        })
        const us = (performance.now() - start) * 1000
        await model.dispose()
        return us
      }
      const read = (): Promise<number> => readUs(file, lab.threads)
      const { a, b, comparison } = await measurePairs(options.quick ? 1 : PAIRS, read, load)
      const { size } = await stat(file)
      const row = {
        ...suite.labels('node.load', shape),
        ...b,
        bytes: size,
        flops: 0,
        bound: 'file' as const,
        roof: size / (a.medianUs * 1e-6),
        fraction: 1 / comparison.ratio,
        note: `${(size / b.medianUs / 1e3).toFixed(2)} GB/s`,
      }
      return [row]
    })
  },
}

/** Microseconds to read a file once, a part per thread. */
export async function readUs(file: string, threads: number): Promise<number> {
  const { size } = await stat(file)
  const part = Math.ceil(size / threads / BLOCK) * BLOCK
  const handles = await Promise.all(Array.from({ length: threads }, () => open(file)))
  try {
    const start = performance.now()
    await Promise.all(
      handles.map(async (handle, i) => {
        const buffer = Buffer.allocUnsafe(BLOCK)
        const end = Math.min(size, (i + 1) * part)
        for (let at = i * part; at < end;) at += (await handle.read(buffer, 0, BLOCK, at)).bytesRead
      }),
    )
    return (performance.now() - start) * 1000
  } finally {
    await Promise.all(handles.map((handle) => handle.close()))
  }
}
