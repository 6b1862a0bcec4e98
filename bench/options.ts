// The command line of a benchmark, checked: every name and value that is unknown is an error with a suggestion.
import type { DeviceOptions } from '#lib/device'
import { OpenMoeError } from '#lib/errors'
import { WEIGHT_DTYPES, type WeightDtype } from '#lib/model/weights'
import { type BenchShape, SHAPES, type Sizes, withSizes } from './shapes.ts'

/** As commander gives them. */
export interface RawOptions extends Sizes {
  shape: string
  dtype: string
  device: string
  threads?: number
  isa?: string
  filter?: string
  json?: string
  html?: string
  compare?: string
  pairs: number
  quick?: boolean
  list?: boolean
}

export interface BenchOptions {
  /** Groups, or the beginnings of their rows' names (`model.decode`); none: everything. */
  names: string[]
  /** Part of the rows' names. */
  filter?: string
  shapes: BenchShape[]
  dtypes: WeightDtype[]
  device: string
  threads?: number
  isa?: DeviceOptions['isa']
  json?: string
  html?: string
  /** A report, or a git revision. */
  compare?: string
  pairs: number
  quick: boolean
}

export const ISAS = ['portable', 'avx2', 'avx512', 'avx512_bf16'] as const

export function checkOptions(
  names: readonly string[],
  raw: RawOptions,
  known: readonly string[],
): BenchOptions {
  const { device, threads, filter, json, html, compare, pairs, quick = false } = raw
  for (const name of names) oneOf('bench', name.split('.')[0]!, known)
  const shapes = list('--shape', raw.shape, [...SHAPES.map((shape) => shape.name), 'all'])
  const dtypes = list('--dtype', raw.dtype, [...WEIGHT_DTYPES, 'all'])
  return {
    names: [...names],
    filter,
    shapes: SHAPES.filter(({ name }) => shapes.includes(name) || shapes.includes('all')).map((shape) =>
      checkShape(withSizes(shape, raw)),
    ),
    dtypes: WEIGHT_DTYPES.filter((dtype) => dtypes.includes(dtype) || dtypes.includes('all')),
    device,
    threads,
    isa: raw.isa === undefined ? undefined : oneOf('--isa', raw.isa, ISAS),
    json,
    html,
    compare,
    pairs,
    quick,
  }
}

/** Whether a group has rows that were asked for by name. */
export function wantsGroup({ names }: Pick<BenchOptions, 'names'>, group: string): boolean {
  return names.length === 0 || names.some((name) => name.split('.')[0] === group)
}

export function wantsRow({ names, filter }: Pick<BenchOptions, 'names' | 'filter'>, row: string): boolean {
  const named = names.length === 0 || names.some((name) => row.startsWith(name))
  return named && (filter === undefined || row.includes(filter))
}

// What the kernels take (lib/ops checks it too, but only once the data has been made).
function checkShape(shape: BenchShape): BenchShape {
  if (shape.numExperts < 2)
    refuse('--experts', `${shape.numExperts} is too few: every token goes to 2 experts.`)
  if (shape.headDim % 2) refuse('--head-dim', `${shape.headDim} is odd: rope rotates pairs.`)
  if (shape.numHeads % shape.numKvHeads) {
    refuse(
      '--kv-heads',
      `${shape.numHeads} heads cannot be shared out to ${shape.numKvHeads} of keys and values.`,
    )
  }
  return shape
}

function list(option: string, text: string, known: readonly string[]): string[] {
  return text.split(',').map((name) => oneOf(option, name.trim(), known))
}

function oneOf<T extends string>(option: string, value: string, known: readonly T[]): T {
  if ((known as readonly string[]).includes(value)) return value as T
  const near = closest(value, known)
  const what = option === 'bench' ? 'nothing to measure is named' : `${option}: there is no`
  return refuse(
    null,
    `${what} '${value}'. ${near ? `Did you mean '${near}'? ` : ''}Known: ${known.join(', ')}.`,
  )
}

function refuse(option: string | null, message: string): never {
  throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', option === null ? message : `${option}: ${message}`)
}

/** The known name a few typing mistakes away, if any. */
export function closest(value: string, known: readonly string[]): string | undefined {
  const ranked = known
    .map((name) => ({ name, distance: editDistance(value.toLowerCase(), name.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance)
  const [best] = ranked
  return best && best.distance <= Math.max(2, Math.floor(value.length / 3)) ? best.name : undefined
}

/** Levenshtein: insertions, deletions and replacements from one to the other. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1))
    }
    row = next
  }
  return row[b.length]!
}
