import { readdir, realpath, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { OpenMoeError } from '../errors.ts'
import { readFailure } from './file_reader.ts'
import { quoteName } from './tensor_index.ts'

/** A folder with a checkpoint in it, with all links on the way to it resolved. */
export interface ModelFolder {
  path: string // as given, absolute
  realPath: string
  names: string[] // what lies directly in it, sorted
}

export async function openModelFolder(folder: string): Promise<ModelFolder> {
  const path = resolve(folder)
  try {
    if (!(await stat(path)).isDirectory()) {
      throw notFound(path, 'this is a file. Pass the folder that holds config.json and the weights.')
    }
    return { path, realPath: await realpath(path), names: (await readdir(path)).sort() }
  } catch (error) {
    if (error instanceof OpenMoeError) throw error
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw readFailure(path, 'open', error)
    const advice =
      'Pass the path of a folder with config.json and the weights; openmoe downloads nothing by itself.'
    throw notFound(path, `there is no such folder. ${advice}`, error)
  }
}

export function notFound(path: string, message: string, cause?: unknown): OpenMoeError {
  return new OpenMoeError('ERR_OPENMOE_MODEL_NOT_FOUND', `${path}: ${message}`, { cause })
}

/** Why a file name out of an index is no name of a file in its folder, or undefined when it is one. */
export function fileNameProblem(name: string): string | undefined {
  if (name === '' || name === '.' || name === '..') return 'it is no file name'
  if (/[/\\]/.test(name)) return 'it has a path separator, and weights lie directly in the model folder'
  if ([...name].some((character) => character < ' ')) return 'it has a control character'
  if (Buffer.byteLength(name) > 255) return 'it is longer than a file name can be'
  return undefined
}

/**
 * The real path of a weight file, or undefined when there is none. A link must stay inside the model folder, so that a
 * downloaded folder cannot make us read other files. One exception: the Hugging Face cache keeps
 * `<repo>/snapshots/<revision>/model.safetensors` as a link to `<repo>/blobs/<hash>`, so for a folder of that shape the
 * blobs of the same repository count as inside.
 */
export async function resolveWeightFile(folder: ModelFolder, name: string): Promise<string | undefined> {
  const path = join(folder.path, name)
  let target: string
  try {
    target = await realpath(path)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT') return undefined
    if (code === 'ELOOP') throw linkRefused(path, 'is a link that leads back to itself')
    throw readFailure(path, 'open', error)
  }
  if (dirname(target) === folder.realPath || dirname(target) === blobsFolder(folder)) return target
  throw linkRefused(path, `is a link to ${quoteName(target)}, outside the model folder`)
}

function blobsFolder(folder: ModelFolder): string | undefined {
  const snapshots = dirname(folder.realPath)
  return basename(snapshots) === 'snapshots' ? join(dirname(snapshots), 'blobs') : undefined
}

function linkRefused(path: string, what: string): OpenMoeError {
  const advice =
    'Only links within the folder, or into the blobs of the same Hugging Face cache entry, are followed.'
  return new OpenMoeError('ERR_OPENMOE_SHARD_INDEX', `${path}: ${what}. ${advice} Copy the file instead.`)
}
