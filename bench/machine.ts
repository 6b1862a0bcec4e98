import { execFileSync } from 'node:child_process'
import { availableParallelism, loadavg, totalmem } from 'node:os'
import { devices } from '#lib/device'

export interface Machine {
  cpu: string
  /** The instruction set the device was opened with. */
  isa: string
  threads: number
  cpus: number
  memoryBytes: number
  platform: string
  node: string
  /** Of the tree, with `+` when it has changes. */
  commit: string
  date: string
  /** One-minute load at the start: other work on the machine. */
  load: number
}

export function describeMachine(threads: number, isa: string | undefined): Machine {
  const cpu = devices()[0]!
  return {
    cpu: cpu.description,
    isa: isa ?? process.env.OPENMOE_ISA ?? cpu.isas.at(-1) ?? 'portable',
    threads,
    cpus: availableParallelism(),
    memoryBytes: totalmem(),
    platform: `${process.platform}-${process.arch}`,
    node: process.version,
    commit: commit(),
    date: new Date().toISOString(),
    load: loadavg()[0] ?? 0,
  }
}

function commit(): string {
  const git = (...args: string[]): string =>
    execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  try {
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '-uno') ? '+' : '')
  } catch {
    return 'unknown'
  }
}
