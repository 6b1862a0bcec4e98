import { readFile, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { OpenMoeError } from '../errors.ts'
import { parseConfig } from './config_reader.ts'
export { parseConfig }

/** config.json in one spelling, complete and checked. Field names are the checkpoint's, in camelCase. */
export interface OpenMoeConfig {
  vocabSize: number
  hiddenSize: number
  intermediateSize: number
  numHiddenLayers: number
  numAttentionHeads: number
  numKeyValueHeads: number
  headDim: number // numAttentionHeads * headDim may differ from hiddenSize (8B: 3072 and 2048)
  maxPositionEmbeddings: number
  ropeTheta: number
  rmsNormEps: number
  numExperts: number
  moeLayerInterval: number
  topK: number
  routerCapacityFactorTrain: number
  routerCapacityFactorEval: number
  routerMinCapacity: number
  routerDropTokens: boolean
  routerAuxLossFactor: number
  routerZLossFactor: number
  zLossFactor: number
  labelSmoothing: number
  padTokenId: number
  bosTokenId: number
  eosTokenId: number
  torchDtype?: string // what the weights are said to be stored in; the tensors decide
}

export interface ParseConfigOptions {
  file: string // named in messages
  tokenIds?: { pad?: number; bos?: number; eos?: number } // from the tokenizer, whose ids win
}

export interface ParsedConfig {
  config: OpenMoeConfig
  warnings: string[]
}

const MAX_CONFIG_BYTES = 1024 * 1024

/** Reads and checks `<folder>/config.json`. */
export async function loadConfig(
  folder: string,
  options: Omit<ParseConfigOptions, 'file'> = {},
): Promise<ParsedConfig> {
  const file = join(resolve(folder), 'config.json')
  const text = await readConfigText(file)
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (cause) {
    const reason = (cause as Error).message
    throw new OpenMoeError('ERR_OPENMOE_CONFIG', `${file}: this is no JSON (${reason}). Download it again.`, {
      cause,
    })
  }
  return parseConfig(json, { ...options, file })
}

async function readConfigText(file: string): Promise<string> {
  try {
    const info = await stat(file)
    if (!info.isFile()) throw new OpenMoeError('ERR_OPENMOE_CONFIG', `${file}: not a regular file.`)
    if (info.size > MAX_CONFIG_BYTES) {
      throw new OpenMoeError(
        'ERR_OPENMOE_CONFIG',
        `${file}: ${info.size} bytes, at most ${MAX_CONFIG_BYTES} are read.`,
      )
    }
    return await readFile(file, 'utf8')
  } catch (cause) {
    if (cause instanceof OpenMoeError) throw cause
    const code = (cause as NodeJS.ErrnoException).code
    if (code !== 'ENOENT' && code !== 'ENOTDIR') {
      throw new OpenMoeError(
        'ERR_OPENMOE_FILE_READ',
        `${file}: reading failed (${code}). Check the permissions.`,
        { cause },
      )
    }
    const advice = 'Pass the folder of a checkpoint as it was downloaded, with config.json and the weights.'
    throw new OpenMoeError('ERR_OPENMOE_MODEL_NOT_FOUND', `${file}: there is no such file. ${advice}`, {
      cause,
    })
  }
}

/** Layer i has experts when (i + 1) is a multiple of the interval; layers count from 0. */
export function isMoeLayer(config: Pick<OpenMoeConfig, 'moeLayerInterval'>, layer: number): boolean {
  return (layer + 1) % config.moeLayerInterval === 0
}

// A larger capacity drops nothing either, and the kernels count rows in 32 bits.
const MAX_CAPACITY = 2 ** 31 - 1

/**
 * Rows an expert may take of a capacity group of `numTokens` tokens (spec 4.2): floor(k * factor * n / E), made even, at
 * least `minCapacity`. The order of the operations is the reference's, because it decides how the floor falls.
 */
export function expertCapacity(
  numTokens: number,
  numExperts: number,
  topK: number,
  factor: number,
  minCapacity: number,
): number {
  const rows = Math.floor((topK * factor * numTokens) / numExperts)
  return Math.min(MAX_CAPACITY, Math.max(rows + (rows % 2), minCapacity))
}

/** The capacity of a group under a config: the train factor in training, else the eval factor. */
export function capacityFor(
  config: OpenMoeConfig,
  numTokens: number,
  { train = false }: { train?: boolean } = {},
): number {
  if (!Number.isSafeInteger(numTokens) || numTokens < 0) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `capacityFor: numTokens is ${numTokens}, expected an integer from 0.`,
    )
  }
  const factor = train ? config.routerCapacityFactorTrain : config.routerCapacityFactorEval
  return expertCapacity(numTokens, config.numExperts, config.topK, factor, config.routerMinCapacity)
}
