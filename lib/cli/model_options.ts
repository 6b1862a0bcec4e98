// Options shared by the commands that load a model.
import { existsSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { OpenMoeError } from '../errors.ts'
import { loadModel } from '../model/load_model.ts'
import type { Model } from '../model/model.ts'
import { type ExpertCapacity, EXPERT_CAPACITIES } from '../model/runner.ts'
import { WEIGHT_DTYPES, type WeightDtype } from '../model/weights.ts'
import { loadProgress, note } from './output.ts'

export interface ModelOptions {
  model?: string
  device: string
  dtype: 'auto' | WeightDtype
  threads?: number
  expertCapacity?: ExpertCapacity
}

export function withModelOptions(command: Command): Command {
  return command
    .option('--model <dir>', 'checkpoint folder (default: the bundled openmoe-tiny)')
    .option('--device <name>', 'auto, cpu, cuda or cuda:N', 'auto')
    .addOption(
      new Option('--dtype <dtype>', 'dtype of the weights in memory')
        .choices(['auto', ...WEIGHT_DTYPES])
        .default('auto'),
    )
    .option('--threads <n>', 'compute threads (default: physical cores)', wholeNumber)
    .addOption(new Option('--expert-capacity <mode>', 'slots per expert').choices(EXPERT_CAPACITIES))
}

/** Loads the model with a progress bar and says what was odd about it. */
export async function loadFromOptions(options: ModelOptions, signal?: AbortSignal): Promise<Model> {
  const { onProgress, stop } = loadProgress()
  try {
    const { device, dtype, threads, expertCapacity } = options
    const model = await loadModel(modelFolder(options.model), {
      device,
      dtype,
      threads,
      expertCapacity,
      onProgress,
      signal,
    })
    stop()
    for (const warning of model.warnings) note(`warning: ${warning}`)
    return model
  } finally {
    stop()
  }
}

/** The folder given, else the model that the repository ships. */
export function modelFolder(given: string | undefined): string {
  if (given) return given
  const root = resolve(dirname(fileURLToPath(import.meta.url)), '..', '..')
  const bundled = join(root, 'models', 'openmoe-tiny')
  if (existsSync(bundled)) return bundled
  throw new OpenMoeError(
    'ERR_OPENMOE_MODEL_NOT_FOUND',
    'No model was given. Pass --model with a checkpoint folder.',
  )
}

export function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('Expected a whole number.')
  return Number(text)
}

export function positiveNumber(text: string): number {
  if (!/^\d*[1-9]\d*$/.test(text)) throw new InvalidArgumentError('Expected a whole number from 1.')
  return Number(text)
}

export function decimal(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a number.')
  return value
}
