import type { Command } from 'commander'
import { detectLayout, resolveParameters } from '../../checkpoint/layout.ts'
import { openCheckpoint } from '../../checkpoint/open_checkpoint.ts'
import type { CheckpointIndex } from '../../checkpoint/tensor_index.ts'
import { OpenMoeError } from '../../errors.ts'
import { loadConfig, type OpenMoeConfig } from '../../model/config.ts'
import { countParameters, memoryPerDtype } from '../../model/parameter_count.ts'
import { formatBytes, printJson } from '../output.ts'

export function addInspect(program: Command): void {
  program
    .command('inspect')
    .description('what a checkpoint holds: layout, tensors, parameters total and active, memory per dtype')
    .argument('<dir>', 'checkpoint folder; config.json alone is enough for the arithmetic')
    .option('--tensors', 'list every tensor')
    .option('--json', 'print one JSON value')
    .action(async (dir: string, options: { tensors?: boolean; json?: boolean }) => {
      const report = await inspect(dir)
      if (options.json) {
        printJson(report)
        return
      }
      for (const line of describe(report)) process.stdout.write(`${line}\n`)
      if (options.tensors) {
        for (const { name, dtype, shape } of report.checkpoint?.tensors ?? []) {
          process.stdout.write(`  ${name}  ${dtype} [${shape.join(', ')}]\n`)
        }
      }
    })
}

interface Report {
  config: OpenMoeConfig
  warnings: string[]
  parameters: ReturnType<typeof countParameters>
  memory: ReturnType<typeof memoryPerDtype>
  checkpoint: {
    format: string
    layout: string
    files: CheckpointIndex['files']
    bytes: number
    tensors: { name: string; dtype: string; shape: readonly number[] }[]
  } | null
}

export async function inspect(dir: string): Promise<Report> {
  const { config, warnings } = await loadConfig(dir)
  return {
    config,
    warnings,
    parameters: countParameters(config),
    memory: memoryPerDtype(config),
    checkpoint: await describeCheckpoint(dir, config),
  }
}

/** Null where there is only a config.json; a damaged checkpoint is an error, as it is for loading. */
async function describeCheckpoint(dir: string, config: OpenMoeConfig): Promise<Report['checkpoint']> {
  let index: CheckpointIndex
  try {
    index = await openCheckpoint(dir)
  } catch (error) {
    if (error instanceof OpenMoeError && error.code === 'ERR_OPENMOE_MODEL_NOT_FOUND') return null
    throw error
  }
  resolveParameters(index, config)
  return {
    format: index.format,
    layout: detectLayout(index),
    files: index.files,
    bytes: index.files.reduce((sum, file) => sum + file.bytes, 0),
    tensors: [...index.tensors.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape })),
  }
}

function* describe({ config, warnings, parameters, memory, checkpoint }: Report): Generator<string> {
  const billions = (n: number): string =>
    n >= 1e9 ? `${(n / 1e9).toFixed(3)} B` : `${(n / 1e6).toFixed(1)} M`
  const moeLayers = Math.floor(config.numHiddenLayers / config.moeLayerInterval)
  yield (
    `model        ${config.numHiddenLayers} layers (${moeLayers} with ${config.numExperts} experts, top ${config.topK}), hidden ${config.hiddenSize}, ` +
    `intermediate ${config.intermediateSize}, heads ${config.numAttentionHeads} x ${config.headDim}, vocabulary ${config.vocabSize}, context ${config.maxPositionEmbeddings}`
  )
  yield `parameters   ${billions(parameters.total)} in all, ${billions(parameters.active)} active per token`
  yield (
    `             experts ${billions(parameters.experts)}, dense FFN ${billions(parameters.denseMlp)}, attention ${billions(parameters.attention)}, ` +
    `embedding ${billions(parameters.embedding)}, head ${billions(parameters.head)}`
  )
  yield `memory       f32 ${formatBytes(memory.f32)}, bf16 ${formatBytes(memory.bf16)}; cache per token f32 ${formatBytes(memory.kvCachePerToken.f32)}, bf16 ${formatBytes(memory.kvCachePerToken.bf16)}`
  if (checkpoint) {
    yield `checkpoint   ${checkpoint.layout} layout, ${checkpoint.format}, ${checkpoint.tensors.length} tensors in ${checkpoint.files.length} file(s), ${formatBytes(checkpoint.bytes)}`
  } else yield 'checkpoint   no weights in this folder'
  for (const warning of warnings) yield `warning      ${warning}`
}
