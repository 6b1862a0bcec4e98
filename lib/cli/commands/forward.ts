import { writeFile } from 'node:fs/promises'
import type { Command } from 'commander'
import { writeSafetensors } from '../../checkpoint/safetensors.ts'
import { OpenMoeError } from '../../errors.ts'
import type { ForwardResult } from '../../model/forward.ts'
import { computeLosses } from '../../model/losses.ts'
import type { ExpertCapacity } from '../../model/runner.ts'
import type { HostTensor } from '../../tensor.ts'
import { loadFromOptions, type ModelOptions, withModelOptions } from '../model_options.ts'
import { interruptSignal, note, printJson } from '../output.ts'
import { readTextFile } from '../text_file.ts'

interface ForwardInputs {
  input_ids: number[][]
  capacity_mode?: ExpertCapacity
  greedy_steps?: number
}

/** Everything spec section 13 names. */
const ALL_TAPS = ['hidden.*', 'after_attention.0', 'moe.*']

export function addForward(program: Command): void {
  const command = program
    .command('forward')
    .description('one forward pass over token ids, written as safetensors: the door for outside checkers')
    .requiredOption(
      '--input <file>',
      'JSON: {"input_ids": [[0, 12, 7], ...], "capacity_mode"?, "greedy_steps"?}',
    )
    .option('--taps <list>', 'tensors besides the logits, comma separated, * matches anything; or all', 'all')
    .option('--output <file>', 'safetensors file; FILE.json beside it holds ids, capacity and losses')
  withModelOptions(command)
    .option('--json', 'print the JSON part on stdout')
    .action(
      async (options: ModelOptions & { input: string; taps: string; output?: string; json?: boolean }) => {
        const inputs = await readInputs(options.input)
        const signal = interruptSignal()
        const model = await loadFromOptions(options, signal)
        try {
          const result = await model.forward(inputs.input_ids, {
            expertCapacity: options.expertCapacity ?? inputs.capacity_mode,
            taps: options.taps === 'all' ? ALL_TAPS : options.taps.split(',').filter(Boolean).concat('moe.*'),
            greedySteps: inputs.greedy_steps,
            signal,
          })
          const report = {
            capacity_per_group: result.capacityPerGroup,
            greedy: result.greedy?.ids,
            losses: computeLosses(model.config, inputs.input_ids, result),
          }
          if (options.output) {
            await writeSafetensors(options.output, tensorsOf(result, inputs.input_ids))
            await writeFile(`${options.output}.json`, `${JSON.stringify(report, null, 1)}\n`)
            note(`wrote ${options.output} and ${options.output}.json`)
          }
          if (options.json || !options.output) printJson(report)
        } finally {
          await model.dispose()
        }
      },
    )
}

async function readInputs(file: string): Promise<ForwardInputs> {
  const text = await readTextFile(file)
  let inputs: Partial<ForwardInputs>
  try {
    inputs = JSON.parse(text) as Partial<ForwardInputs>
  } catch (cause) {
    throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `${file}: ${(cause as Error).message}`, { cause })
  }
  const ids = inputs?.input_ids
  if (!Array.isArray(ids) || !ids.every((sequence) => Array.isArray(sequence))) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `${file}: "input_ids" must be a list of lists of token ids.`,
    )
  }
  return { ...inputs, input_ids: ids }
}

/** Names and shapes of spec section 13: [B, S, .] for equal lengths, packed [N, .] otherwise and for moe.*. */
function* tensorsOf(result: ForwardResult, sequences: readonly number[][]) {
  const length = sequences[0]!.length
  const equal = sequences.every((ids) => ids.length === length)
  const named: [string, HostTensor][] = Object.entries(result.taps)
  if (result.logits) named.push(['logits', result.logits])
  if (result.greedy) named.push(['decode_logits', result.greedy.logits])
  const DTYPES = { f32: 'F32', i32: 'I32', u8: 'U8', bf16: 'BF16', f16: 'F16' } as const
  for (const [name, { dtype, shape, data }] of named) {
    const batched = equal && !name.startsWith('moe.') && name !== 'decode_logits'
    yield {
      name,
      dtype: DTYPES[dtype],
      shape: batched ? [sequences.length, length, ...shape.slice(1)] : shape,
      data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    }
  }
}
