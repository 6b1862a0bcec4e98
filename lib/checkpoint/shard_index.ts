import { isUtf8 } from 'node:buffer'
import { OpenMoeError } from '../errors.ts'
import { readExactly, withFile } from './file_reader.ts'
import { JsonScanner } from './json_scanner.ts'
import { fileNameProblem } from './model_folder.ts'
import { MAX_TENSORS, quoteName } from './tensor_index.ts'

const MAX_INDEX_BYTES = 64 * 1024 * 1024
const MAX_SHARDS = 10_000
const MAX_DEPTH = 16

export type Fail = (message: string) => never

/** Reads `*.index.json`: tensor name -> shard file name. Names are checked to lie in the folder, files are not opened. */
export async function readShardIndex(
  path: string,
  extension: '.safetensors' | '.bin',
): Promise<Map<string, string>> {
  const fail = shardFailure(path)
  const raw = await withFile(path, async ({ handle, bytes }) => {
    if (bytes > MAX_INDEX_BYTES) fail(`it has ${bytes} bytes, at most ${MAX_INDEX_BYTES} are read.`)
    return readExactly(handle, path, 0, bytes, 'the index')
  })
  if (!isUtf8(raw)) fail('it is not UTF-8.')
  const shardOf = new Map<string, string>()
  const checked = new Set<string>()
  const json = new JsonScanner(raw.toString('utf8'), (message) =>
    fail(`${message}. Download the index again.`),
  )
  let found = false
  json.object('the index', (key) => {
    if (key !== 'weight_map') return json.skipValue(quoteName(key), MAX_DEPTH)
    found = true
    json.object('weight_map', (tensor) => {
      const shard = json.string(`the file of ${quoteName(tensor)}`)
      if (!checked.has(shard)) {
        const problem = fileNameProblem(shard) ?? extensionProblem(shard, extension)
        if (problem) fail(`tensor ${quoteName(tensor)} is said to lie in ${quoteName(shard)}: ${problem}.`)
        checked.add(shard)
      }
      if (shardOf.size === MAX_TENSORS) fail(`it lists more than ${MAX_TENSORS} tensors.`)
      if (checked.size > MAX_SHARDS) fail(`it lists more than ${MAX_SHARDS} files.`)
      shardOf.set(tensor, shard)
    })
  })
  json.end()
  if (!found) fail('it has no weight_map, expected { "weight_map": { tensor: file } }.')
  if (shardOf.size === 0) fail('its weight_map is empty.')
  return shardOf
}

function extensionProblem(name: string, extension: string): string | undefined {
  return name.endsWith(extension) ? undefined : `expected a file ending in ${extension}`
}

export function shardFailure(path: string): Fail {
  return (message) => {
    throw new OpenMoeError('ERR_OPENMOE_SHARD_INDEX', `${path}: ${message}`)
  }
}
