// Loading a checkpoint against reading its file: both from the page cache.
import { stat } from 'node:fs/promises'
import { loadModel } from '#lib/model/load_model'
import type { Row } from '../report.ts'
import { type ReadInto, readFileUs } from '../roofline.ts'
import { measurePairs, type NodeBench } from './node_bench.ts'
import { withCheckpoint } from './synthetic_model.ts'

const PAIRS = 6

// Weights have to stay in memory, so the rate at which a file becomes fresh memory is the roof of loading it. The rate of
// reading alone, into a block that stays in cache, shows what the memory costs.
const ROWS: readonly { name: string; into: ReadInto }[] = [
  { name: 'node.load', into: 'fresh' },
  { name: 'node.load (cached block)', into: 'cache' },
]

const PLACES = { fresh: 'fresh memory', cache: 'a block that stays in cache' } as const

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
      const { size } = await stat(file)
      const rows: Row[] = []
      for (const { name, into } of ROWS) {
        const read = (): Promise<number> => readFileUs(file, lab.threads, into)
        const { a, b, comparison } = await measurePairs(options.quick ? 1 : PAIRS, read, load)
        rows.push({
          ...suite.labels(name, shape),
          ...b,
          bytes: size,
          flops: 0,
          bound: 'file' as const,
          roof: size / (a.medianUs * 1e-6),
          fraction: 1 / comparison.ratio,
          note: `${(size / b.medianUs / 1e3).toFixed(2)} GB/s, against reading into ${PLACES[into]}`,
        })
      }
      return rows
    })
  },
}
