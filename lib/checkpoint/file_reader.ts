import { constants, open, stat, type FileHandle } from 'node:fs/promises'
import { OpenMoeError, type ErrorCode } from '../errors.ts'

export interface OpenFile {
  handle: FileHandle
  bytes: number
}

function systemCode(error: unknown): string {
  return (error as NodeJS.ErrnoException | undefined)?.code ?? String(error)
}

export function readFailure(path: string, doing: string, error: unknown): OpenMoeError {
  const hint =
    systemCode(error) === 'ENOENT'
      ? 'The file does not exist: check the path, or download the checkpoint again.'
      : 'Check the permissions and the disk, then try again.'
  return new OpenMoeError(
    'ERR_OPENMOE_FILE_READ',
    `${path}: ${doing} failed (${systemCode(error)}). ${hint}`,
    {
      cause: error,
    },
  )
}

/** Opens a regular file for reading, hands it to `use`, and closes it whatever happens. */
export async function withFile<T>(path: string, use: (file: OpenFile) => Promise<T>): Promise<T> {
  let handle: FileHandle | undefined
  try {
    // Asked before opening too: opening a pipe would wait for a writer that never comes.
    if (!(await stat(path)).isFile()) throw notRegular(path)
    handle = await open(path, constants.O_RDONLY)
    const info = await handle.stat()
    if (!info.isFile()) throw notRegular(path)
    return await use({ handle, bytes: info.size })
  } catch (error) {
    throw error instanceof OpenMoeError ? error : readFailure(path, handle ? 'read' : 'open', error)
  } finally {
    await handle?.close()
  }
}

function notRegular(path: string): OpenMoeError {
  return new OpenMoeError(
    'ERR_OPENMOE_FILE_READ',
    `${path}: not a regular file. Pass the folder of a checkpoint whose weights are plain files.`,
  )
}

/** Reads `length` bytes at `position`; short reads are continued, an early end of the file is an error. */
export async function readExactly(
  handle: Pick<FileHandle, 'read'>,
  path: string,
  position: number,
  length: number,
  what: string,
): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length)
  await readInto(handle, path, position, buffer, what)
  return buffer
}

// One read call moves at most this much, because some systems cap a call at 2^31 - 1 bytes.
const MAX_READ_BYTES = 64 * 1024 * 1024

export async function readInto(
  handle: Pick<FileHandle, 'read'>,
  path: string,
  position: number,
  target: Uint8Array,
  what: string,
): Promise<void> {
  let done = 0
  while (done < target.byteLength) {
    let bytesRead: number
    try {
      const wanted = Math.min(target.byteLength - done, MAX_READ_BYTES)
      ;({ bytesRead } = await handle.read(target, done, wanted, position + done))
    } catch (error) {
      throw readFailure(path, `reading ${what}`, error)
    }
    if (bytesRead === 0) {
      throw truncated(path, `ends after ${position + done} bytes, inside ${what}`)
    }
    done += bytesRead
  }
}

export function truncated(path: string, what: string): OpenMoeError {
  return new OpenMoeError(
    'ERR_OPENMOE_FILE_TRUNCATED',
    `${path}: the file ${what}. It was cut short: download or copy it again.`,
  )
}

/** What a file that is not the expected format most often is instead; '' when it is none of these. */
export function commonMistake(start: Buffer): string {
  const text = start.toString('latin1')
  if (text.startsWith('version ')) return ' This is a git-lfs pointer, not the weights: run `git lfs pull`.'
  if (text.startsWith('<')) return ' This looks like a web page: download the file itself.'
  if (text.startsWith('GGUF')) return ' This is a GGUF file, which openmoe does not read.'
  return ''
}

export function failWith(code: ErrorCode, path: string): (message: string) => never {
  return (message) => {
    throw new OpenMoeError(code, `${path}: ${message}`)
  }
}
