import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { openCheckpoint } from '../checkpoint/open_checkpoint.ts'
import { type ParameterSource, resolveParameters } from '../checkpoint/layout.ts'
import { isPanelDtype } from '../checkpoint/panels.ts'
import { openDevice } from '../device.ts'
import { OpenMoeError } from '../errors.ts'
import { Tokenizer } from '../tokenizer/tokenizer.ts'
import { loadConfig } from './config.ts'
import { type LoadModelOptions, Model } from './model.ts'
import { EXPERT_CAPACITIES } from './runner.ts'
import { loadWeights, WEIGHT_DTYPES, type WeightDtype } from './weights.ts'

/**
 * Loads a checkpoint folder as it is published: config.json, weights (safetensors or torch zip, single or sharded),
 * tokenizer files. Weights stream from disk: peak memory is their final size plus a few MiB.
 * @throws OpenMoeError with a code per kind of problem; rejects with `signal.reason` when aborted
 */
export async function loadModel(folder: string, options: LoadModelOptions = {}): Promise<Model> {
  checkOptions(options)
  options.signal?.throwIfAborted()
  const opening = openCheckpoint(folder)
  opening.catch(() => undefined) // it is awaited below, unless something else fails first
  const tokenizer = await loadTokenizer(folder)
  const tokenIds = tokenizer && { pad: tokenizer.padId, bos: tokenizer.bosId, eos: tokenizer.eosId }
  const { config, warnings } = await loadConfig(folder, { tokenIds })
  const parameters = resolveParameters(await opening, config)
  const dtype = chooseDtype(parameters, options.dtype ?? 'auto')
  if (options.maxContext && options.maxContext > config.maxPositionEmbeddings) {
    throw new OpenMoeError(
      'ERR_OPENMOE_CONTEXT_LENGTH',
      `maxContext: ${options.maxContext} is more than the model's ${config.maxPositionEmbeddings} positions.`,
    )
  }
  const device = await openDevice(modelDevice(options.device), {
    threads: options.threads,
    isa: options.isa,
  })
  try {
    const { onProgress, signal } = options
    const weights = await loadWeights(device, config, parameters, { dtype, onProgress, signal })
    return new Model({ device, config, weights, dtype, tokenizer, warnings }, options)
  } catch (error) {
    await device.dispose()
    throw error
  }
}

/** A model needs every op, and only those of the MoE layer have CUDA kernels: until then 'auto' is the CPU. */
function modelDevice(name = 'auto'): string {
  if (!/^cuda/.test(name)) return name === 'auto' ? 'cpu' : name
  throw new OpenMoeError(
    'ERR_OPENMOE_UNSUPPORTED',
    `device: ${name} cannot run a whole model yet, only the ops of the MoE layer (openmoe/kernels). ` +
      "Pass { device: 'cpu' } or 'auto'.",
  )
}

/** Token ids alone are enough to run a checkpoint, so a missing tokenizer is no error. */
async function loadTokenizer(folder: string): Promise<Tokenizer | undefined> {
  const exists = await Promise.all(
    ['spiece.model', 'tokenizer.json'].map((name) =>
      access(join(folder, name)).then(
        () => true,
        () => false,
      ),
    ),
  )
  return exists.some(Boolean) ? Tokenizer.load(folder) : undefined
}

function checkOptions(options: LoadModelOptions): void {
  const { dtype = 'auto', expertCapacity = 'dropless' } = options
  const oneOf = (name: string, value: string, allowed: readonly string[]): void => {
    if (!allowed.includes(value)) {
      throw new OpenMoeError(
        'ERR_OPENMOE_INVALID_ARG',
        `${name}: '${value}' is unknown. Use ${allowed.join(', ')}.`,
      )
    }
  }
  oneOf('dtype', dtype, ['auto', ...WEIGHT_DTYPES])
  oneOf('expertCapacity', expertCapacity, EXPERT_CAPACITIES)
  for (const name of ['maxContext', 'maxSequences', 'threads'] as const) {
    const value = options[name]
    if (value !== undefined && !(Number.isInteger(value) && value >= 1 && value <= 2 ** 20)) {
      throw new OpenMoeError(
        'ERR_OPENMOE_INVALID_ARG',
        `${name}: ${String(value)} is no whole number from 1.`,
      )
    }
  }
}

/** Quantised weights can only be what they were stored as. */
function chooseDtype(
  parameters: ReadonlyMap<string, ParameterSource>,
  wanted: 'auto' | WeightDtype,
): WeightDtype {
  const sources = [...parameters.values()].flatMap(({ matrices }) => matrices)
  const stored = new Set(sources.map(({ dtype }) => dtype).filter(isPanelDtype))
  const [first] = stored
  if (!first) return wanted === 'auto' ? 'bf16' : wanted
  const dtype = first === 'INT8' ? 'int8' : 'int4'
  const plain = [...parameters.values()].some(
    ({ role, matrices }) =>
      (role === 'matrix' || role === 'experts') && !matrices.every((m) => m.dtype === first),
  )
  if (stored.size === 1 && !plain && (wanted === 'auto' || wanted === dtype)) return dtype
  throw new OpenMoeError(
    'ERR_OPENMOE_DTYPE',
    stored.size > 1 || plain
      ? `The checkpoint mixes quantised and other matrices. Convert the original checkpoint again.`
      : `The checkpoint holds ${dtype} weights, dtype '${wanted}' was asked for. Leave dtype out, or use the original checkpoint.`,
  )
}
