// bench/ops/*.bench.ts as groups of cases.
import { readdirSync } from 'node:fs'
import type { Device } from '#lib/device'
import type { Program } from '#lib/program'
import { type Group, type Lab, type OpenGroup, tracking } from './cases.ts'
import { recordingSampler } from './sampling.ts'
import type { TypedShape } from './shapes.ts'

export interface OpCase {
  name: string
  record: (p: Program) => unknown
  /** Memory traffic and arithmetic of one run, at their least. */
  bytes: number
  flops: number
  /** compute: may find its data in the caches, as it reuses it anyway; memory: must not. */
  bound: 'memory' | 'compute'
}

/** Every bench/ops/<op>.bench.ts exports one as `bench`. */
export interface OpBench {
  cases(device: Device, shape: TypedShape): Promise<OpCase[]>
}

const folder = new URL('ops/', import.meta.url)
const SUFFIX = /\.bench\.(ts|js)$/

export function opGroups(): Group[] {
  return readdirSync(folder)
    .filter((file) => SUFFIX.test(file))
    .sort()
    .map((file) => {
      const name = file.replace(SUFFIX, '')
      return { name, open: (lab, shape) => openOp(name, file, lab, shape) }
    })
}

async function openOp(op: string, file: string, lab: Lab, shape: TypedShape): Promise<OpenGroup> {
  const { bench } = (await import(new URL(file, folder).href)) as { bench: OpBench }
  const { device, freeAll } = tracking(lab.device)
  const cases = await bench.cases(device, shape)
  return {
    cases: cases.map(({ name, record, bytes, flops, bound }) => ({
      name: `${op} ${name}`,
      work: () => ({ bytes, flops }),
      prepare: async () => recordingSampler(device, record, bound === 'memory' ? await lab.evict() : null),
    })),
    close: freeAll,
  }
}
