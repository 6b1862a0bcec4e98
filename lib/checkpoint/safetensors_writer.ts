import { randomBytes } from 'node:crypto'
import { open, rename, rm, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { OpenMoeError } from '../errors.ts'
import {
  DTYPE_BYTES,
  elementCount,
  formatShape,
  isTensorDtype,
  quoteName,
  type TensorDtype,
} from './tensor_index.ts'

type Chunks = Iterable<Uint8Array> | AsyncIterable<Uint8Array>

export interface TensorToWrite {
  name: string
  dtype: TensorDtype
  shape: readonly number[]
  data: Uint8Array | Chunks | (() => Chunks) // little-endian bytes, row-major; a function is called when its turn comes
}

/**
 * Writes a safetensors file: the descriptions are collected first, the data streams after them, one tensor at a time.
 * The file appears under its name only when it is complete; a failure leaves nothing behind.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite> | AsyncIterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<{ path: string; bytes: number }> {
  const list: SizedTensor[] = []
  for await (const tensor of tensors) list.push(measure(tensor, path))
  // Widest elements first, as the format's own writer does: then every tensor is aligned to its element size.
  list.sort((a, b) => DTYPE_BYTES[b.tensor.dtype] - DTYPE_BYTES[a.tensor.dtype])
  const header = encodeHeader(list, metadata, path)

  const target = resolve(path)
  const temporary = join(
    dirname(target),
    `.${basename(target)}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`,
  )
  let handle: FileHandle | undefined
  try {
    handle = await open(temporary, 'wx')
    await writeAll(handle, header)
    let bytes = header.byteLength
    for (const sized of list) bytes += await writeTensor(handle, sized, path)
    await handle.sync()
    await handle.close()
    handle = undefined
    await rename(temporary, target)
    return { path: target, bytes }
  } catch (error) {
    await handle?.close().catch(() => {})
    await rm(temporary, { force: true }).catch(() => {})
    if (!(error instanceof Error) || !('syscall' in error)) throw error
    const reason = (error as NodeJS.ErrnoException).code ?? error.message
    const advice = 'Check the free space and the permissions of the folder.'
    throw new OpenMoeError('ERR_OPENMOE_FILE_WRITE', `${target}: writing failed (${reason}). ${advice}`, {
      cause: error,
    })
  }
}

interface SizedTensor {
  tensor: TensorToWrite
  size: number
}

function measure(tensor: TensorToWrite, path: string): SizedTensor {
  if (!isTensorDtype(tensor.dtype))
    throw refused(path, tensor, `dtype ${quoteName(String(tensor.dtype))} is unknown`)
  if (!tensor.shape.every((side) => Number.isSafeInteger(side) && side >= 0)) {
    throw refused(path, tensor, `shape ${formatShape(tensor.shape)} is not made of integers from 0`)
  }
  const size = (elementCount(tensor.shape) ?? Infinity) * DTYPE_BYTES[tensor.dtype]
  if (!Number.isSafeInteger(size)) throw refused(path, tensor, `shape ${formatShape(tensor.shape)} overflows`)
  return { tensor, size }
}

function refused(path: string, tensor: TensorToWrite, message: string): OpenMoeError {
  return new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `${path}: tensor ${quoteName(tensor.name)}: ${message}.`)
}

function encodeHeader(list: SizedTensor[], metadata: Readonly<Record<string, string>>, path: string): Buffer {
  const fields: string[] = []
  const seen = new Set<string>(['__metadata__', '__proto__'])
  if (Object.keys(metadata).length > 0) fields.push(`"__metadata__":${JSON.stringify(metadata)}`)
  let begin = 0
  for (const { tensor, size } of list) {
    if (seen.has(tensor.name)) throw refused(path, tensor, 'the name is reserved or was given twice')
    seen.add(tensor.name)
    const entry = { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [begin, begin + size] }
    fields.push(`${JSON.stringify(tensor.name)}:${JSON.stringify(entry)}`)
    begin += size
  }
  const text = Buffer.from(`{${fields.join(',')}}`, 'utf8')
  // Padded with spaces so that the data starts on a multiple of 8.
  const length = Math.ceil(text.byteLength / 8) * 8
  const header = Buffer.alloc(8 + length, ' ')
  header.writeBigUInt64LE(BigInt(length), 0)
  text.copy(header, 8)
  return header
}

async function writeTensor(handle: FileHandle, { tensor, size }: SizedTensor, path: string): Promise<number> {
  const given = typeof tensor.data === 'function' ? tensor.data() : tensor.data
  const chunks: Chunks = given instanceof Uint8Array ? [given] : given
  let written = 0
  for await (const chunk of chunks) {
    written += chunk.byteLength
    if (written > size) break
    await writeAll(handle, chunk)
  }
  if (written === size) return size
  const relation = written > size ? 'more' : `${written}`
  throw refused(
    path,
    tensor,
    `${tensor.dtype} ${formatShape(tensor.shape)} takes ${size} bytes, its data has ${relation}`,
  )
}

async function writeAll(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  let done = 0
  while (done < chunk.byteLength) {
    done += (await handle.write(chunk, done, Math.min(chunk.byteLength - done, 2 ** 30))).bytesWritten
  }
}
