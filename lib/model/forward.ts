// Whole sequences through the model at once, for looking inside: logits, taps, greedy continuations, log-probabilities.
import type { Device } from '../device.ts'
import { OpenMoeError } from '../errors.ts'
import type { HostTensor } from '../tensor.ts'
import type { OpenMoeConfig } from './config.ts'
import { KvCache, PAGE_TOKENS } from './kv_cache.ts'
import { type ExpertCapacity, ModelRunner, type SequenceStep } from './runner.ts'
import type { ModelWeights } from './weights.ts'

export interface ForwardOptions {
  /** Default: the model's. `batch` makes all sequences of the call one capacity group. */
  expertCapacity?: ExpertCapacity
  /**
   * Tensors to return besides the logits, by name or with `*`: hidden.{i}, after_attention.{i},
   * moe.{i}.{router_logits,topk_index,topk_prob,rank,kept,output} (spec section 13).
   */
  taps?: readonly string[]
  /** Rows of logits to return: all (default), the last of each sequence, or none. */
  logits?: 'all' | 'last' | 'none'
  /** Continue each sequence greedily by so many tokens; end-of-sequence does not stop it. */
  greedySteps?: number
  signal?: AbortSignal
}

export interface ForwardResult {
  /** f32 [rows, vocab_size], sequences one after the other; null with `logits: 'none'`. */
  logits: HostTensor | null
  /** Rows are packed: sequences one after the other. `kept` is u8, the others as native/ops say. */
  taps: Record<string, HostTensor>
  /** Slots per expert of each capacity group; empty when dropless. */
  capacityPerGroup: number[]
  /** Ids of each sequence's greedy continuation, and the f32 logits [num_seqs, steps, vocab_size] that chose them. */
  greedy?: { ids: number[][]; logits: HostTensor }
}

interface ForwardModel {
  device: Device
  config: OpenMoeConfig
  weights: ModelWeights
  kvDtype: 'f32' | 'bf16'
}

export async function forward(
  model: ForwardModel,
  sequences: readonly ArrayLike<number>[],
  expertCapacity: ExpertCapacity,
  options: ForwardOptions,
): Promise<ForwardResult> {
  const { device, config } = model
  const { greedySteps = 0, signal } = options
  checkSequences(sequences, config, greedySteps)
  signal?.throwIfAborted()
  const pagesOf = sequences.map((ids) => Math.ceil((ids.length + greedySteps) / PAGE_TOKENS))
  const cache = new KvCache(device, {
    numLayers: config.numHiddenLayers,
    numKvHeads: config.numKeyValueHeads,
    headDim: config.headDim,
    dtype: model.kvDtype,
    numPages: pagesOf.reduce((a, b) => a + b, 0),
  })
  const runner = new ModelRunner(device, config, model.weights, cache)
  try {
    const steps = sequences.map((ids): SequenceStep => ({
      ids,
      position: 0,
      pages: cache.reserve(ids.length + greedySteps)!,
      logitRows: rowsWanted(ids.length, options.logits ?? 'all', greedySteps > 0),
    }))
    const result = await runner.step(steps, {
      expertCapacity,
      taps: options.taps,
      returnLogits: steps.some((step) => step.logitRows.length > 0),
    })
    const logits = matrixOf(result.logits ?? new Float32Array(0), config.vocabSize)
    return {
      logits: options.logits === 'none' ? null : logits,
      taps: Object.fromEntries([...result.taps].map(([name, tensor]) => [name, presentTap(name, tensor)])),
      capacityPerGroup: result.capacityPerGroup,
      greedy:
        greedySteps > 0
          ? await greedy(runner, steps, logits, expertCapacity, greedySteps, signal)
          : undefined,
    }
  } finally {
    runner.dispose()
    cache.dispose()
  }
}

/** Argmax after argmax, all sequences in one step: in batch mode they are one capacity group, as in the reference. */
async function greedy(
  runner: ModelRunner,
  prefill: readonly SequenceStep[],
  prefillLogits: HostTensor,
  expertCapacity: ExpertCapacity,
  steps: number,
  signal: AbortSignal | undefined,
): Promise<NonNullable<ForwardResult['greedy']>> {
  const vocabSize = prefillLogits.shape[1]!
  const numSeqs = prefill.length
  const all = new Float32Array(numSeqs * steps * vocabSize)
  const ids: number[][] = prefill.map(() => [])
  // The last row of each sequence among the rows that were returned.
  let end = 0
  let rows = prefill.map((step) => {
    end += step.logitRows.length
    return (prefillLogits.data as Float32Array).subarray((end - 1) * vocabSize, end * vocabSize)
  })
  for (let n = 0; n < steps; n++) {
    rows.forEach((row, s) => {
      all.set(row, (s * steps + n) * vocabSize)
      ids[s]!.push(row.reduce((best, value, id) => (value > row[best]! ? id : best), 0))
    })
    if (n + 1 === steps) break
    signal?.throwIfAborted()
    const next = prefill.map(({ ids: prompt, pages }, s): SequenceStep => ({
      ids: [ids[s]![n]!],
      position: prompt.length + n,
      pages,
      logitRows: [0],
    }))
    const { logits } = await runner.step(next, { expertCapacity, returnLogits: true })
    rows = next.map((_, s) => logits!.subarray(s * vocabSize, (s + 1) * vocabSize))
  }
  return { ids, logits: { dtype: 'f32', shape: [numSeqs, steps, vocabSize], data: all } }
}

function rowsWanted(length: number, logits: 'all' | 'last' | 'none', needLast: boolean): number[] {
  if (logits === 'all') return Array.from({ length }, (_, i) => i)
  return logits === 'last' || needLast ? [length - 1] : []
}

const matrixOf = (data: Float32Array, columns: number): HostTensor => ({
  dtype: 'f32',
  shape: [data.length / columns, columns],
  data,
})

/** `kept` is recorded as the row a choice went to, -1 when dropped. */
function presentTap(name: string, tensor: HostTensor): HostTensor {
  if (!name.endsWith('.kept')) return tensor
  return { dtype: 'u8', shape: tensor.shape, data: Uint8Array.from(tensor.data, (row) => (row >= 0 ? 1 : 0)) }
}

export function checkSequences(
  sequences: readonly ArrayLike<number>[],
  config: OpenMoeConfig,
  extraTokens: number,
): void {
  if (sequences.length === 0 || sequences.some((ids) => ids.length === 0)) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `forward: ${sequences.length === 0 ? 'no sequence' : 'an empty sequence'} was given. A text starts with token id ${config.bosTokenId}.`,
    )
  }
  for (const ids of sequences) {
    checkIds(ids, config)
    if (ids.length + extraTokens > config.maxPositionEmbeddings) {
      throw new OpenMoeError(
        'ERR_OPENMOE_CONTEXT_LENGTH',
        `A sequence of ${ids.length} tokens${extraTokens ? ` and ${extraTokens} new ones` : ''} does not fit the context of ` +
          `${config.maxPositionEmbeddings}. Shorten it.`,
      )
    }
  }
}

/** Token ids come from outside; the embedding refuses bad ones too, but can only name a row. */
export function checkIds(ids: ArrayLike<number>, config: OpenMoeConfig): void {
  if (typeof ids !== 'object' || ids === null || !Number.isInteger(ids.length)) {
    throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', 'Expected a text, or a list of token ids.')
  }
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]
    if (!Number.isInteger(id) || id! < 0 || id! >= config.vocabSize) {
      throw new OpenMoeError(
        'ERR_OPENMOE_INVALID_ARG',
        `token id ${String(id)} at position ${i} is outside the vocabulary of ${config.vocabSize}.`,
      )
    }
  }
}
