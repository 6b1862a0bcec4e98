// One forward pass of any mix of sequences: fills the inputs of the recording, keeps recordings that come again.
import type { CompiledProgram, Device } from '../device.ts'
import { OpenMoeError } from '../errors.ts'
import { sample, sampleFloats, sampleInts } from '../ops/sample.ts'
import type { Program } from '../program.ts'
import type { HostTensor, Tensor, TypedArray } from '../tensor.ts'
import { capacityFor, type OpenMoeConfig } from './config.ts'
import { type KvCache, PAGE_TOKENS } from './kv_cache.ts'
import { type ForwardShape, likeliest, logits, openMoe } from './openmoe.ts'
import type { ModelWeights } from './weights.ts'

/** How an expert's slots are limited (spec 4.4). */
export type ExpertCapacity = 'dropless' | 'sequence' | 'batch'
export const EXPERT_CAPACITIES: readonly ExpertCapacity[] = ['dropless', 'sequence', 'batch']

/** The new tokens of one sequence in a run. */
export interface SequenceStep {
  /** An id below 0 stands for a token the step before has sampled and the host need not have seen: -1 less its row. */
  ids: ArrayLike<number>
  /** Absolute position of ids[0]: how many tokens of the sequence are cached. */
  position: number
  pages: Int32Array
  /** Rows (within ids) whose logits are wanted. */
  logitRows: readonly number[]
}

/** How the logit rows of a step are sampled, in order. */
export interface SamplingInputs {
  /** Ids from here on are never taken. */
  vocabLimit: number
  /** Without, every row takes its likeliest id, and nobody asks how likely it was: the logits are never written. */
  rows?: SamplingRows
}

/** Parameters by row (native/ops/sample.h). */
export interface SamplingRows {
  floats: Float32Array
  ints: Int32Array
  history?: { ids: Int32Array; max: number }
  bias?: { ids: Int32Array; values: Float32Array; max: number }
  /** Report the log-probability of the token. */
  logprobs: boolean
  /** Alternatives reported with their log-probability. */
  numTop: number
}

export interface StepOptions {
  expertCapacity: ExpertCapacity
  taps?: readonly string[]
  sampling?: SamplingInputs
  /** Copy the logits to the host. */
  returnLogits?: boolean
}

export interface StepResult {
  logits?: Float32Array
  tokens?: Int32Array
  logprobs?: Float32Array
  topIds?: Int32Array
  topLogprobs?: Float32Array
  taps: Map<string, HostTensor>
  /** Slots per expert of each capacity group; empty when dropless. */
  capacityPerGroup: number[]
}

type StepProgram = CompiledProgram<Record<string, Tensor>>

// Decode steps repeat with the same sizes; anything larger is recorded anew, which costs far less than running it.
const MAX_KEPT_PROGRAMS = 64
const MAX_KEPT_TOKENS = 64
/** Rows of a step that the next one can refer to. */
export const MAX_FOLLOWED_ROWS = 64

export class ModelRunner {
  private readonly kept = new Map<string, StepProgram>()
  private readonly device: Device
  private readonly config: OpenMoeConfig
  private readonly weights: ModelWeights
  private readonly cache: KvCache
  /** Tokens of the last step that sampled, by row. */
  private readonly sampled: Tensor

  constructor(device: Device, config: OpenMoeConfig, weights: ModelWeights, cache: KvCache) {
    this.device = device
    this.config = config
    this.weights = weights
    this.cache = cache
    this.sampled = device.empty('i32', [MAX_FOLLOWED_ROWS])
  }

  /** Lets go of the recordings, and so of the weights. */
  dispose(): void {
    this.device.free(this.sampled)
    for (const program of this.kept.values()) program.dispose()
    this.kept.clear()
  }

  async step(sequences: readonly SequenceStep[], options: StepOptions): Promise<StepResult> {
    const shape = this.shapeOf(sequences, options.expertCapacity)
    const { program, kept } = this.programFor(shape, options)
    const inputs = program.stage()
    fillRows(inputs, sequences, shape)
    const capacityPerGroup = fillCapacity(inputs, this.config, options.expertCapacity)
    if (options.sampling?.rows) fillSampling(inputs, options.sampling.rows)
    const running = program.run()
    if (!kept) program.dispose() // the run in flight keeps what it needs
    const { values, taps } = await running
    const tokens = values.token?.data as Int32Array | undefined
    if (tokens?.some((id) => id < 0)) {
      throw new OpenMoeError(
        'ERR_OPENMOE_NON_FINITE',
        'The model produced NaN or infinite logits. The weights may be damaged; OPENMOE_TRACE=1 names the first op.',
      )
    }
    return {
      logits: values.logits?.data as Float32Array | undefined,
      tokens,
      logprobs: values.logprob?.data as Float32Array | undefined,
      topIds: values.topIds?.data as Int32Array | undefined,
      topLogprobs: values.topLogprobs?.data as Float32Array | undefined,
      taps,
      capacityPerGroup,
    }
  }

  private shapeOf(sequences: readonly SequenceStep[], expertCapacity: ExpertCapacity): ForwardShape {
    let numTokens = 0
    let numLogitRows = 0
    for (const { ids, logitRows } of sequences) {
      numTokens += ids.length
      numLogitRows += logitRows.length
    }
    return {
      numTokens,
      numSeqs: sequences.length,
      numGroups: expertCapacity === 'sequence' ? sequences.length : 1,
      maxBlocks: Math.ceil(this.config.maxPositionEmbeddings / PAGE_TOKENS),
      numLogitRows,
      hasCapacity: expertCapacity !== 'dropless',
    }
  }

  private programFor(shape: ForwardShape, options: StepOptions): { program: StepProgram; kept: boolean } {
    const { sampling, taps = [], returnLogits = false } = options
    const { numTokens, numSeqs, numGroups, numLogitRows, hasCapacity } = shape
    const rows = sampling?.rows
    const how = rows ? `${rows.numTop} ${rows.logprobs} ${rows.history?.max} ${rows.bias?.max}` : 'likeliest'
    const sizes = `${numTokens} ${numSeqs} ${numGroups} ${numLogitRows} ${hasCapacity}`
    const key = `${sizes} ${returnLogits} ${sampling?.vocabLimit} ${how} ${taps.join()}`
    let program = this.kept.get(key)
    if (!program) {
      program = this.record(shape, options)
      if (numTokens > MAX_KEPT_TOKENS) return { program, kept: false }
    }
    this.kept.delete(key) // a Map iterates in insertion order: the first key is the one unused for longest
    this.kept.set(key, program)
    if (this.kept.size > MAX_KEPT_PROGRAMS) {
      const [oldest, unused] = this.kept.entries().next().value as [string, StepProgram]
      this.kept.delete(oldest)
      unused.dispose()
    }
    return { program, kept: true }
  }

  /** Where a step writes its tokens, so that the next one finds them there. */
  private tokensOf(rows: number): Tensor | undefined {
    return rows <= MAX_FOLLOWED_ROWS ? this.device.view(this.sampled, [rows]) : undefined
  }

  private record(shape: ForwardShape, { sampling, returnLogits, taps }: StepOptions): StepProgram {
    const { weights, cache } = this
    return this.device.compile(
      (p) => {
        const state = { cache, previous: this.sampled }
        const normed = openMoe(p, this.config, weights, state, shape)
        const results: Record<string, Tensor> = {}
        if (!normed) return results
        const token = this.tokensOf(shape.numLogitRows)
        if (sampling && !sampling.rows) {
          results.token = likeliest(p, normed, weights, { vocabLimit: sampling.vocabLimit, token })
        }
        if (!returnLogits && !sampling?.rows) return results
        const scores = logits(p, normed, weights)
        if (returnLogits) results.logits = scores
        if (sampling?.rows)
          Object.assign(results, sampleRows(p, scores, sampling.rows, sampling.vocabLimit, token))
        return results
      },
      { taps },
    )
  }
}

function sampleRows(
  p: Program,
  scores: Tensor,
  { history, bias, numTop, logprobs }: SamplingRows,
  vocabLimit: number,
  token: Tensor | undefined,
): Record<string, Tensor> {
  const numRows = scores.shape[0]!
  const params = {
    floats: p.input('sample_floats', 'f32', [numRows, sampleFloats.count]),
    ints: p.input('sample_ints', 'i32', [numRows, sampleInts.count]),
    history: history && p.input('history', 'i32', [numRows, history.max]),
    biasIds: bias && p.input('bias_ids', 'i32', [numRows, bias.max]),
    biasValues: bias && p.input('bias_values', 'f32', [numRows, bias.max]),
  }
  const sampled = sample(p, scores, params, { vocabLimit, numTop, logprobs, token })
  const entries = Object.entries(sampled) as [string, Tensor | undefined][]
  return Object.fromEntries(entries.filter((entry): entry is [string, Tensor] => entry[1] !== undefined))
}

type Inputs = Readonly<Record<string, TypedArray>>

/** Flattens the sequences into rows, one after the other. */
function fillRows(inputs: Inputs, sequences: readonly SequenceStep[], { maxBlocks }: ForwardShape): void {
  const { token_ids, positions, seq_offsets, seq_positions, block_table } = inputs
  const { logit_rows, logit_positions, logit_blocks } = inputs
  let row = 0
  let logitRow = 0
  for (let s = 0; s < sequences.length; s++) {
    const { ids, position, pages, logitRows } = sequences[s]!
    for (const wanted of logitRows) {
      if (logit_positions) logit_positions[logitRow] = position + wanted
      logit_blocks?.set(pages, logitRow * maxBlocks)
      logit_rows![logitRow++] = row + wanted
    }
    seq_positions![s] = position
    block_table!.set(pages, s * maxBlocks)
    for (let i = 0; i < ids.length; i++) {
      token_ids![row] = ids[i]!
      positions![row++] = position + i
    }
    seq_offsets![s + 1] = row
  }
}

/** @returns slots per expert of each capacity group */
function fillCapacity(inputs: Inputs, config: OpenMoeConfig, expertCapacity: ExpertCapacity): number[] {
  const { group_offsets, capacity, seq_offsets, token_ids } = inputs
  if (expertCapacity === 'sequence') group_offsets!.set(seq_offsets!)
  else group_offsets![1] = token_ids!.length
  if (expertCapacity === 'dropless') {
    capacity!.fill(-1)
    return []
  }
  for (let g = 0; g < capacity!.length; g++) {
    capacity![g] = capacityFor(config, group_offsets![g + 1]! - group_offsets![g]!)
  }
  return [...capacity!]
}

function fillSampling(inputs: Inputs, { floats, ints, history, bias }: SamplingRows): void {
  inputs.sample_floats?.set(floats)
  inputs.sample_ints?.set(ints)
  if (history) inputs.history?.set(history.ids)
  if (bias) {
    inputs.bias_ids?.set(bias.ids)
    inputs.bias_values?.set(bias.values)
  }
}
