import { join, resolve } from 'node:path'
import { notFound, openModelFolder, resolveWeightFile, type ModelFolder } from './model_folder.ts'
import { readSafetensorsHeader } from './safetensors.ts'
import { readShardIndex, shardFailure, type Fail } from './shard_index.ts'
import { quoteName, type CheckpointFile, type CheckpointIndex, type TensorEntry } from './tensor_index.ts'
import { readTorchZip } from './torch_zip.ts'

type Format = CheckpointIndex['format']

// In order of preference: safetensors before pickles, an index before the single file of the same format.
const SOURCES = [
  { name: 'model.safetensors.index.json', format: 'safetensors', sharded: true },
  { name: 'model.safetensors', format: 'safetensors', sharded: false },
  { name: 'pytorch_model.bin.index.json', format: 'torch', sharded: true },
  { name: 'pytorch_model.bin', format: 'torch', sharded: false },
] as const

/** Finds the weights of a model folder and describes every tensor in them. Only headers and directories are read. */
export async function openCheckpoint(folder: string): Promise<CheckpointIndex> {
  const found = await openModelFolder(folder)
  for (const source of SOURCES) {
    if (!found.names.includes(source.name)) continue
    const path = await weightFile(found, source.name)
    return source.sharded ? openShards(found, path, source.format) : openSingle(path, source.format)
  }
  throw notFound(found.path, explainNoWeights(found.names))
}

/** Describes one weight file by its path: `*.safetensors`, or a torch.save() archive of any other name. */
export async function openCheckpointFile(path: string): Promise<CheckpointIndex> {
  return openSingle(resolve(path), path.endsWith('.safetensors') ? 'safetensors' : 'torch')
}

async function openSingle(path: string, format: Format): Promise<CheckpointIndex> {
  const { file, tensors } = await readHeader(path, format)
  return { format, files: [file], tensors }
}

function readHeader(path: string, format: Format) {
  return format === 'safetensors' ? readSafetensorsHeader(path) : readTorchZip(path)
}

async function weightFile(folder: ModelFolder, name: string): Promise<string> {
  const path = await resolveWeightFile(folder, name)
  if (path !== undefined) return path
  throw notFound(
    join(folder.path, name),
    'it is a link to a file that does not exist. Download the file again.',
  )
}

async function openShards(folder: ModelFolder, indexPath: string, format: Format): Promise<CheckpointIndex> {
  const shardOf = await readShardIndex(indexPath, format === 'safetensors' ? '.safetensors' : '.bin')
  const fail = shardFailure(indexPath)
  const shardNames = [...new Set(shardOf.values())].sort()
  const paths = await resolveShards(folder, shardNames, fail)
  const files: CheckpointFile[] = []
  const tensors = new Map<string, TensorEntry>()
  const nameOfPath = new Map([...paths].map(([name, path]) => [path, name]))
  for (const [shard, path] of paths) {
    const header = await readHeader(path, format)
    files.push(header.file)
    for (const [name, entry] of header.tensors) {
      const other = tensors.get(name)
      if (other) {
        const where = `${quoteName(nameOfPath.get(other.file) ?? other.file)} and in ${quoteName(shard)}`
        fail(`tensor ${quoteName(name)} lies in ${where}. Remove one of them, or re-export the checkpoint.`)
      }
      const said = shardOf.get(name)
      if (said !== shard) {
        const listed = said === undefined ? 'the index does not list it' : `the index says ${quoteName(said)}`
        fail(
          `${quoteName(shard)} holds tensor ${quoteName(name)}, but ${listed}. Index and shards do not belong together.`,
        )
      }
      tensors.set(name, entry)
    }
  }
  for (const [name, shard] of shardOf) {
    if (!tensors.has(name)) {
      fail(
        `tensor ${quoteName(name)} is not in ${quoteName(shard)}, where the index has it. Download both again.`,
      )
    }
  }
  return { format, files, tensors }
}

async function resolveShards(folder: ModelFolder, names: string[], fail: Fail): Promise<Map<string, string>> {
  const paths = new Map<string, string>()
  const missing: string[] = []
  const owner = new Map<string, string>()
  for (const name of names) {
    const path = await resolveWeightFile(folder, name)
    if (path === undefined) {
      missing.push(name)
      continue
    }
    const twin = owner.get(path)
    if (twin !== undefined) fail(`${quoteName(twin)} and ${quoteName(name)} are the same file.`)
    owner.set(path, name)
    paths.set(name, path)
  }
  if (missing.length > 0) {
    const listed = missing.slice(0, 5).map(quoteName).join(', ')
    fail(
      `${missing.length} of ${names.length} shards are missing: ${listed}. Download them into the same folder.`,
    )
  }
  return paths
}

function explainNoWeights(names: string[]): string {
  const wanted = `expected ${SOURCES.map((source) => source.name).join(', ')}`
  const has = (test: RegExp) => names.find((name) => test.test(name))
  const gguf = has(/\.gguf$/i)
  if (gguf) return `no weights that openmoe reads: ${quoteName(gguf)} is a GGUF file, ${wanted}.`
  const jax = has(/^(checkpoint|checkpoint_\d+|train_state.*|target.*|state)$/) ?? has(/\.(msgpack|orbax.*)$/)
  if (jax) {
    const advice = 'convert it to PyTorch names first (ColossalAI examples/language/openmoe has the script)'
    return `no weights that openmoe reads: ${quoteName(jax)} looks like a T5X or Flax checkpoint; ${advice}.`
  }
  const stray = names.filter((name) => /\.(safetensors|bin|pt|pth|h5)$/.test(name))
  if (stray.length > 0) {
    const listed = stray.slice(0, 5).map(quoteName).join(', ')
    return `no weights under a known name: found ${listed}, ${wanted}. Rename a single file, or add the index of the shards.`
  }
  const listed =
    names.length === 0 ? 'it is empty' : `it holds ${names.slice(0, 8).map(quoteName).join(', ')}`
  return `no weights in this folder: ${listed}; ${wanted}. Download the weights too.`
}
