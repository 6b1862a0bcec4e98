// What the parent of a paired comparison asks of the two processes, and what they answer.
import type { DeviceOptions } from '#lib/device'
import type { Work } from './roofline.ts'
import type { TypedShape } from './shapes.ts'

export type Request =
  | { ask: 'device'; name: string; options: DeviceOptions & { threads: number }; quick: boolean }
  | { ask: 'open'; group: string; shape: TypedShape }
  | { ask: 'prepare'; name: string }
  | { ask: 'sample'; count: number }
  | { ask: 'work' }
  | { ask: 'release' }
  | { ask: 'close' }

export interface Answers {
  device: null
  /** Names of the cases. */
  open: string[]
  prepare: null
  /** Microseconds. */
  sample: number[]
  work: Work
  release: null
  close: null
}

export type Answer<K extends keyof Answers = keyof Answers> = { ok: Answers[K] } | { error: string }
