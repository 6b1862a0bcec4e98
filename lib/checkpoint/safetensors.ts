import { isUtf8 } from 'node:buffer'
import { resolve } from 'node:path'
import { OpenMoeError, type ErrorCode } from '../errors.ts'
import { commonMistake, readExactly, readInto, truncated, withFile, type OpenFile } from './file_reader.ts'
import { JsonScanner } from './json_scanner.ts'
import {
  DTYPE_BYTES,
  MAX_RANK,
  MAX_TENSORS,
  contiguousStrides,
  elementCount,
  formatShape,
  isTensorDtype,
  quoteName,
  type CheckpointFile,
  type TensorDtype,
  type TensorEntry,
} from './tensor_index.ts'
export { writeSafetensors, type TensorToWrite } from './safetensors_writer.ts'

/** Longest header we read. The format's own readers allow 100 MB; the largest OpenMoE header is about 300 kB. */
export const MAX_HEADER_BYTES = 64 * 1024 * 1024

export interface SafetensorsHeader {
  file: CheckpointFile
  tensors: Map<string, TensorEntry>
  metadata: Map<string, string>
}

type FloatOrInt = Float32Array | Int32Array | Uint8Array | Uint16Array
export interface LoadedTensor {
  dtype: TensorDtype
  shape: readonly number[]
  data: FloatOrInt // BF16 and F16 as raw 16-bit words unless widened
}

/** Reads the header of a safetensors file, and not one byte of data. Every inconsistency is a typed error. */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsHeader> {
  return withFile(resolve(path), (file) => readHeader(file, resolve(path)))
}

async function readHeader({ handle, bytes }: OpenFile, path: string): Promise<SafetensorsHeader> {
  if (bytes < 8)
    throw truncated(path, `has ${bytes} bytes, a safetensors file starts with an 8-byte header length`)
  const start = await readExactly(handle, path, 0, 8, 'the header length')
  const declared = start.readBigUInt64LE()
  if (declared > BigInt(MAX_HEADER_BYTES)) {
    const mistake = commonMistake(start)
    throw headerError(
      path,
      `the header length is ${declared}, at most ${MAX_HEADER_BYTES} is read.${mistake}`,
    )
  }
  const length = Number(declared)
  if (length === 0) throw headerError(path, 'the header is empty, expected a JSON object.')
  if (8 + length > bytes) {
    throw truncated(path, `has ${bytes} bytes, its header alone is said to take ${8 + length}`)
  }
  const raw = await readExactly(handle, path, 8, length, 'the header')
  if (!isUtf8(raw)) throw headerError(path, 'the header is not UTF-8.')
  const { tensors, metadata } = parseHeader(raw.toString('utf8'), path, 8 + length)
  checkCoverage(tensors, path, 8 + length, bytes)
  return { file: { path, bytes }, tensors, metadata }
}

function headerError(path: string, message: string): OpenMoeError {
  return new OpenMoeError('ERR_OPENMOE_SAFETENSORS_HEADER', `${path}: safetensors header: ${message}`)
}

function parseHeader(text: string, path: string, dataStart: number) {
  const tensors = new Map<string, TensorEntry>()
  const metadata = new Map<string, string>()
  const json = new JsonScanner(text, (message) => {
    throw headerError(path, `${message}. Download the file again, or re-export it.`)
  })
  json.object('the header', (name) => {
    if (name === '__metadata__') {
      json.object('__metadata__', (key) => metadata.set(key, json.string(`__metadata__ ${quoteName(key)}`)))
      return
    }
    // No model has such a tensor; a reader that keys plain objects by name would be poisoned by it.
    if (name === '__proto__') throw headerError(path, 'a tensor is named "__proto__", which is refused.')
    if (tensors.size === MAX_TENSORS) throw headerError(path, `more than ${MAX_TENSORS} tensors are refused.`)
    tensors.set(name, parseEntry(json, name, path, dataStart))
  })
  json.end()
  return { tensors, metadata }
}

function parseEntry(json: JsonScanner, name: string, path: string, dataStart: number): TensorEntry {
  const what = `tensor ${quoteName(name)}`
  const fail = (code: ErrorCode, message: string): never => {
    throw new OpenMoeError(code, `${path}: ${what}: ${message}`)
  }
  let dtype: TensorDtype | undefined
  let shape: number[] | undefined
  let range: number[] | undefined
  const integers = (field: string, most: number): number[] => {
    const values: number[] = []
    json.array(`${field} of ${what}`, (index) => {
      if (index === most) fail('ERR_OPENMOE_SAFETENSORS_HEADER', `${field} has more than ${most} entries.`)
      values.push(json.integer(`${field}[${index}] of ${what}`))
    })
    return values
  }
  json.object(what, (field) => {
    if (field === 'dtype') {
      const word = json.string(`dtype of ${what}`)
      if (isTensorDtype(word)) dtype = word
      else fail('ERR_OPENMOE_DTYPE', `dtype ${quoteName(word)} is unknown. Weights must be F32, BF16 or F16.`)
    } else if (field === 'shape') shape = integers('shape', MAX_RANK)
    else if (field === 'data_offsets') range = integers('data_offsets', 2)
    else fail('ERR_OPENMOE_SAFETENSORS_HEADER', `field ${quoteName(field)} is unknown.`)
  })
  const fields = 'expected dtype, shape and data_offsets [begin, end].'
  if (!dtype || !shape || range?.length !== 2)
    return fail('ERR_OPENMOE_SAFETENSORS_HEADER', `incomplete, ${fields}`)
  const [begin, end] = range as [number, number]
  if (begin > end)
    fail('ERR_OPENMOE_SAFETENSORS_LAYOUT', `data_offsets [${begin}, ${end}] end before they begin.`)
  const count = elementCount(shape)
  const size = count === undefined ? Infinity : count * DTYPE_BYTES[dtype]
  if (!Number.isSafeInteger(size)) {
    fail('ERR_OPENMOE_SAFETENSORS_LAYOUT', `shape ${formatShape(shape)} overflows: more than 2^53 bytes.`)
  }
  if (end - begin !== size) {
    const said = `data_offsets [${begin}, ${end}] hold ${end - begin} bytes`
    fail('ERR_OPENMOE_SAFETENSORS_LAYOUT', `${said}, ${dtype} ${formatShape(shape)} takes ${size}.`)
  }
  const offset = dataStart + begin
  if (!Number.isSafeInteger(dataStart + end))
    fail('ERR_OPENMOE_SAFETENSORS_LAYOUT', `data_offsets end past 2^53.`)
  return { name, file: path, dtype, shape, offset, strides: contiguousStrides(shape) }
}

function byteSize(entry: TensorEntry): number {
  return (elementCount(entry.shape) ?? 0) * DTYPE_BYTES[entry.dtype]
}

/** The tensors must tile the data exactly: bytes that belong to two tensors or to none hide something. */
function checkCoverage(
  tensors: Map<string, TensorEntry>,
  path: string,
  dataStart: number,
  bytes: number,
): void {
  const entries = [...tensors.values()].map((entry) => ({ entry, size: byteSize(entry) }))
  entries.sort((a, b) => a.entry.offset - b.entry.offset || a.size - b.size)
  let cursor = dataStart
  let previous = 'the header'
  for (const { entry, size } of entries) {
    if (entry.offset !== cursor) {
      const relation = entry.offset < cursor ? 'overlaps' : 'leaves a hole after'
      throw new OpenMoeError(
        'ERR_OPENMOE_SAFETENSORS_LAYOUT',
        `${path}: tensor ${quoteName(entry.name)}: data_offsets begin at ${entry.offset - dataStart}, which ${relation} ` +
          `${previous} (${cursor - dataStart}). Re-export the file.`,
      )
    }
    cursor += size
    previous = quoteName(entry.name)
  }
  if (cursor > bytes) throw truncated(path, `has ${bytes} bytes, its tensors end at ${cursor} (${previous})`)
  if (cursor < bytes) {
    throw new OpenMoeError(
      'ERR_OPENMOE_SAFETENSORS_LAYOUT',
      `${path}: ${bytes - cursor} bytes follow the last tensor (${previous}). Re-export the file.`,
    )
  }
}

/** Reads a small file whole: for tests and tools. Weights are streamed by other means. */
export async function readSafetensors(
  path: string,
  { widenBf16 = false, maxBytes = 2 ** 31 }: { widenBf16?: boolean; maxBytes?: number } = {},
): Promise<Map<string, LoadedTensor>> {
  const absolute = resolve(path)
  return withFile(absolute, async (file) => {
    const { tensors } = await readHeader(file, absolute)
    if (file.bytes > maxBytes) {
      const limit = `${file.bytes} bytes, readSafetensors() takes at most ${maxBytes}`
      throw new OpenMoeError(
        'ERR_OPENMOE_INVALID_ARG',
        `${absolute}: ${limit}. Raise maxBytes or stream the file.`,
      )
    }
    const loaded = new Map<string, LoadedTensor>()
    for (const entry of tensors.values()) {
      const words = typedArray(entry)
      const target = new Uint8Array(words.buffer)
      await readInto(file.handle, absolute, entry.offset, target, `tensor ${quoteName(entry.name)}`)
      const data = widenBf16 && entry.dtype === 'BF16' ? widenBfloat16(words as Uint16Array) : words
      loaded.set(entry.name, { dtype: entry.dtype, shape: entry.shape, data })
    }
    return loaded
  })
}

function typedArray(entry: TensorEntry): FloatOrInt {
  const count = elementCount(entry.shape) ?? 0
  if (entry.dtype === 'F32') return new Float32Array(count)
  if (entry.dtype === 'I32') return new Int32Array(count)
  if (entry.dtype === 'U8' || entry.dtype === 'BOOL') return new Uint8Array(count)
  if (entry.dtype === 'BF16' || entry.dtype === 'F16') return new Uint16Array(count)
  throw new OpenMoeError(
    'ERR_OPENMOE_DTYPE',
    `${entry.file}: tensor ${quoteName(entry.name)} is ${entry.dtype}, readSafetensors() reads F32, BF16, F16, I32, U8 and BOOL.`,
  )
}

/** bf16 words as float32: the upper half of the same bits, so exact. */
export function widenBfloat16(words: Uint16Array): Float32Array {
  const bits = new Uint32Array(words.length)
  for (let i = 0; i < words.length; i++) bits[i] = words[i]! << 16
  return new Float32Array(bits.buffer)
}
