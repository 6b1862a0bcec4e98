// What is measured: the sizes of real models, or the user's own.
import type { WeightDtype } from '#lib/model/weights'

export interface BenchShape {
  name: string
  hiddenSize: number
  intermediateSize: number
  numHeads: number
  numKvHeads: number
  headDim: number
  numExperts: number
  vocabSize: number
  /** Of the whole model; 0: only its ops and its MoE layer are measured. */
  layers: number
  moeLayerInterval: number
  /** Rows in one run of an op. */
  tokens: readonly number[]
  /** Sequences in one decode step. */
  batches: readonly number[]
  /** Cached positions before a decode step of a model. */
  context: number
  /** Positions in the cache of a sequence that decodes, where attention alone is measured. */
  attentionContext: number
  /** Prompt lengths. */
  prompts: readonly number[]
}

/** A shape with weights of one dtype: what a bench is opened for. Activations are always f32. */
export interface TypedShape extends BenchShape {
  dtype: WeightDtype
}

const RUNS = {
  tokens: [1, 8, 64, 512],
  batches: [1, 8, 64],
  context: 128,
  attentionContext: 2048,
  prompts: [128, 512],
}
const SIZE_8B = {
  hiddenSize: 2048,
  intermediateSize: 8192,
  numHeads: 24,
  numKvHeads: 24,
  headDim: 128,
  numExperts: 32,
  vocabSize: 256384,
  moeLayerInterval: 6,
}

/** Spec section 1. `-layer`: one layer of a model whose 24 or 93 GB few machines can hold. */
export const SHAPES: readonly BenchShape[] = [
  {
    name: 'tiny',
    hiddenSize: 256,
    intermediateSize: 256,
    numHeads: 4,
    numKvHeads: 4,
    headDim: 64,
    numExperts: 16,
    vocabSize: 4096,
    layers: 4,
    moeLayerInterval: 2,
    ...RUNS,
  },
  {
    name: 'base',
    hiddenSize: 768,
    intermediateSize: 2048,
    numHeads: 12,
    numKvHeads: 12,
    headDim: 64,
    numExperts: 16,
    vocabSize: 256384,
    layers: 12,
    moeLayerInterval: 4,
    ...RUNS,
  },
  { name: '8b', ...SIZE_8B, layers: 24, ...RUNS },
  { name: '8b-layer', ...SIZE_8B, layers: 0, ...RUNS },
  {
    name: '34b-layer',
    hiddenSize: 3072,
    intermediateSize: 12288,
    numHeads: 24,
    numKvHeads: 24,
    headDim: 128,
    numExperts: 32,
    vocabSize: 256384,
    layers: 0,
    moeLayerInterval: 4,
    ...RUNS,
  },
]

/** What a user may set, as the command line spells it. */
export interface Sizes {
  hidden?: number
  intermediate?: number
  experts?: number
  heads?: number
  kvHeads?: number
  headDim?: number
  vocab?: number
  layers?: number
  context?: number
  tokens?: number[]
  batch?: number[]
}

const FIELDS = {
  hidden: 'hiddenSize',
  intermediate: 'intermediateSize',
  experts: 'numExperts',
  heads: 'numHeads',
  kvHeads: 'numKvHeads',
  headDim: 'headDim',
  vocab: 'vocabSize',
  layers: 'layers',
  context: 'context',
} as const

/** A shape with the user's sizes instead of its own; its name tells which: `base,experts=32`. */
export function withSizes(shape: BenchShape, sizes: Sizes): BenchShape {
  const result = { ...shape }
  const changes: string[] = []
  for (const [option, field] of Object.entries(FIELDS) as [
    keyof typeof FIELDS,
    (typeof FIELDS)['hidden'],
  ][]) {
    const value = sizes[option]
    if (value === undefined) continue
    result[field] = value
    changes.push(`${option}=${value}`)
  }
  // Grouped heads are the exception: who sets the heads means both.
  if (sizes.heads !== undefined && sizes.kvHeads === undefined) result.numKvHeads = sizes.heads
  if (sizes.context !== undefined) result.attentionContext = sizes.context
  if (sizes.tokens) {
    result.tokens = sizes.tokens
    result.prompts = sizes.tokens
  }
  if (sizes.batch) result.batches = sizes.batch
  return { ...result, name: [shape.name, ...changes].join(',') }
}
