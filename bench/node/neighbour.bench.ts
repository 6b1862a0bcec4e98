// What is left of the speed beside a background job that wants every core, at low priority.
import { type ChildProcess, spawn } from 'node:child_process'
import { constants, setPriority } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { OpenMoeError } from '#lib/errors'
import { generateUs } from './generate.bench.ts'
import { measurePairs, type NodeBench } from './node_bench.ts'
import { withModel } from './synthetic_model.ts'

const PAIRS = 6
const SETTLE_MS = 50

export const neighbourBench: NodeBench = {
  name: 'node.neighbour',
  run: ({ lab, suite, shape }) => {
    if (shape.layers === 0) return Promise.resolve([])
    if (process.platform === 'win32') {
      throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', 'node.neighbour needs signals that stop a process.')
    }
    return withModel(shape, suite.deviceOptions, async (synthetic) => {
      const job = new NicedJob(lab.threads)
      try {
        const quiet = async (): Promise<number> => {
          await job.signal('SIGSTOP')
          return generateUs(synthetic)
        }
        const beside = async (): Promise<number> => {
          await job.signal('SIGCONT')
          return generateUs(synthetic)
        }
        const { a, b, comparison } = await measurePairs(suite.options.quick ? 2 : PAIRS, quiet, beside)
        const row = {
          ...suite.labels('node.neighbour', shape),
          ...b,
          bytes: 0,
          flops: 0,
          bound: 'idle' as const,
          roof: a.medianUs,
          fraction: 1 / comparison.ratio,
          tokensPerSecond: 1e6 / b.medianUs,
          note: `beside ${lab.threads} niced busy loops; quiet ${(1e6 / a.medianUs).toPrecision(4)} tok/s`,
        }
        return [row]
      } finally {
        job.kill()
      }
    })
  },
}

/** Busy loops, one per thread, at the priority of a background job. */
class NicedJob {
  private readonly loops: ChildProcess[]

  constructor(threads: number) {
    this.loops = Array.from({ length: threads }, () =>
      spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' }),
    )
    for (const { pid } of this.loops) if (pid) setPriority(pid, constants.priority.PRIORITY_LOW)
  }

  async signal(name: 'SIGSTOP' | 'SIGCONT'): Promise<void> {
    for (const loop of this.loops) loop.kill(name)
    await sleep(SETTLE_MS)
  }

  kill(): void {
    for (const loop of this.loops) loop.kill('SIGKILL')
  }
}
