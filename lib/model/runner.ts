// One forward pass of any mix of sequences: fills the inputs of the recording, keeps recordings that come again.
import type { CompiledProgram, Device } from '../device.ts'
import { OpenMoeError } from '../errors.ts'
import { sample, sampleFloats, sampleInts } from '../ops/sample.ts'
import type { HostTensor, Tensor, TypedArray } from '../tensor.ts'
import { capacityFor, type OpenMoeConfig } from './config.ts'
import { type KvCache, PAGE_TOKENS } from './kv_cache.ts'
import { type ForwardShape, openMoe } from './openmoe.ts'
import type { ModelWeights } from './weights.ts'

/** How an expert's slots are limited (spec 4.4). */
export type ExpertCapacity = 'dropless' | 'sequence' | 'batch'
export const EXPERT_CAPACITIES: readonly ExpertCapacity[] = ['dropless', 'sequence', 'batch']

/** The new tokens of one sequence in a run. */
export interface SequenceStep {
  ids: ArrayLike<number>
  /** Absolute position of ids[0]: how many tokens of the sequence are cached. */
  position: number
  pages: Int32Array
  /** Rows (within ids) whose logits are wanted. */
  logitRows: readonly number[]
}

/** Sampling inputs for the logit rows of a step, in order (native/ops/sample.h). */
export interface SamplingInputs {
  floats: Float32Array
  ints: Int32Array
  history?: { ids: Int32Array; max: number }
  bias?: { ids: Int32Array; values: Float32Array; max: number }
  vocabLimit: number
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

export class ModelRunner {
  private readonly kept = new Map<string, StepProgram>()
  private readonly device: Device
  private readonly config: OpenMoeConfig
  private readonly weights: ModelWeights
  private readonly cache: KvCache

  constructor(device: Device, config: OpenMoeConfig, weights: ModelWeights, cache: KvCache) {
    this.device = device
    this.config = config
    this.weights = weights
    this.cache = cache
  }

  /** Lets go of the recordings, and so of the weights. */
  dispose(): void {
    for (const program of this.kept.values()) program.dispose()
    this.kept.clear()
  }

  async step(sequences: readonly SequenceStep[], options: StepOptions): Promise<StepResult> {
    const { inputs, shape, capacityPerGroup } = this.layOut(sequences, options.expertCapacity)
    const { program, kept } = this.programFor(shape, options)
    const { sampling } = options
    if (sampling) {
      inputs.sample_floats = sampling.floats
      inputs.sample_ints = sampling.ints
      if (sampling.history) inputs.history = sampling.history.ids
      if (sampling.bias) {
        inputs.bias_ids = sampling.bias.ids
        inputs.bias_values = sampling.bias.values
      }
    }
    const { values, taps } = await program.run(inputs).finally(() => {
      if (!kept) program.dispose()
    })
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

  /** Flattens the sequences into rows, one after the other. */
  private layOut(
    sequences: readonly SequenceStep[],
    expertCapacity: ExpertCapacity,
  ): { inputs: Record<string, TypedArray>; shape: ForwardShape; capacityPerGroup: number[] } {
    const numSeqs = sequences.length
    const numTokens = sequences.reduce((sum, s) => sum + s.ids.length, 0)
    const maxBlocks = Math.ceil(this.config.maxPositionEmbeddings / PAGE_TOKENS)
    const ids = new Int32Array(numTokens)
    const positions = new Int32Array(numTokens)
    const seqOffsets = new Int32Array(numSeqs + 1)
    const seqPositions = new Int32Array(numSeqs)
    const blockTable = new Int32Array(numSeqs * maxBlocks)
    const logitRows: number[] = []
    let row = 0
    sequences.forEach((sequence, s) => {
      ids.set(sequence.ids, row)
      for (let i = 0; i < sequence.ids.length; i++) positions[row + i] = sequence.position + i
      logitRows.push(...sequence.logitRows.map((r) => row + r))
      seqPositions[s] = sequence.position
      blockTable.set(sequence.pages, s * maxBlocks)
      row += sequence.ids.length
      seqOffsets[s + 1] = row
    })
    const groupOffsets = expertCapacity === 'sequence' ? seqOffsets : Int32Array.of(0, numTokens)
    const numGroups = groupOffsets.length - 1
    const capacity = new Int32Array(numGroups).fill(-1)
    if (expertCapacity !== 'dropless') {
      for (let g = 0; g < numGroups; g++) {
        capacity[g] = capacityFor(this.config, groupOffsets[g + 1]! - groupOffsets[g]!)
      }
    }
    return {
      inputs: {
        token_ids: ids,
        positions,
        seq_offsets: seqOffsets,
        seq_positions: seqPositions,
        block_table: blockTable,
        group_offsets: groupOffsets,
        capacity,
        logit_rows: Int32Array.from(logitRows),
      },
      shape: { numTokens, numSeqs, numGroups, maxBlocks, numLogitRows: logitRows.length },
      capacityPerGroup: expertCapacity === 'dropless' ? [] : [...capacity],
    }
  }

  private programFor(shape: ForwardShape, options: StepOptions): { program: StepProgram; kept: boolean } {
    const { sampling, taps = [], returnLogits = false } = options
    const key = JSON.stringify([
      Object.values(shape),
      sampling && [sampling.vocabLimit, sampling.numTop, sampling.history?.max, sampling.bias?.max],
      taps,
      returnLogits,
    ])
    let program = this.kept.get(key)
    if (!program) {
      program = this.record(shape, options)
      if (shape.numTokens > MAX_KEPT_TOKENS) return { program, kept: false }
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

  private record(shape: ForwardShape, options: StepOptions): StepProgram {
    const { sampling } = options
    return this.device.compile(
      (p) => {
        const logits = openMoe(p, this.config, this.weights, this.cache, shape)
        const results: Record<string, Tensor> = {}
        if (!logits) return results
        if (options.returnLogits) results.logits = logits
        if (!sampling) return results
        const rows = shape.numLogitRows
        const { history, bias } = sampling
        const sampled = sample(
          p,
          logits,
          {
            floats: p.input('sample_floats', 'f32', [rows, sampleFloats.count]),
            ints: p.input('sample_ints', 'i32', [rows, sampleInts.count]),
            history: history && p.input('history', 'i32', [rows, history.max]),
            biasIds: bias && p.input('bias_ids', 'i32', [rows, bias.max]),
            biasValues: bias && p.input('bias_values', 'f32', [rows, bias.max]),
          },
          { vocabLimit: sampling.vocabLimit, numTop: sampling.numTop },
        )
        for (const [name, tensor] of Object.entries(sampled)) if (tensor) results[name] = tensor as Tensor
        return results
      },
      { taps: options.taps },
    )
  }
}
