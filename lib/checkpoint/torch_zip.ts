import { resolve } from 'node:path'
import { OpenMoeError } from '../errors.ts'
import { commonMistake, readExactly, withFile, type OpenFile } from './file_reader.ts'
import { readStateDict } from './pickle.ts'
import type { PickleTensor } from './pickle_values.ts'
import {
  DTYPE_BYTES,
  elementCount,
  formatShape,
  quoteName,
  type CheckpointFile,
  type TensorEntry,
} from './tensor_index.ts'
import { readZipDirectory, type ZipRecord } from './zip_directory.ts'

const MAX_PICKLE_BYTES = 64 * 1024 * 1024

export interface TorchZip {
  file: CheckpointFile
  tensors: Map<string, TensorEntry>
}

/** Describes the tensors of a torch.save() archive. Nothing is unpickled in Python's sense: see `readStateDict`. */
export async function readTorchZip(path: string): Promise<TorchZip> {
  const absolute = resolve(path)
  return withFile(absolute, async (file) => ({
    file: { path: absolute, bytes: file.bytes },
    tensors: await readArchive(file, absolute),
  }))
}

async function readArchive(file: OpenFile, path: string): Promise<Map<string, TensorEntry>> {
  await refuseOtherFormats(file, path)
  const records = await readZipDirectory(file, path)
  const root = archiveRoot(records, path)
  await checkByteOrder(file, path, records.get(`${root}byteorder`))

  const record = records.get(`${root}data.pkl`)!
  if (record.bytes > MAX_PICKLE_BYTES)
    throw zipError(path, `data.pkl has ${record.bytes} bytes, at most ${MAX_PICKLE_BYTES} are read.`)
  const pickle = await readExactly(file.handle, path, record.offset, record.bytes, 'data.pkl')
  const described = readStateDict(pickle, (message) => {
    throw new OpenMoeError('ERR_OPENMOE_PICKLE', `${path}: data.pkl: ${message}`)
  })

  const tensors = new Map<string, TensorEntry>()
  const storages = new Map<string, string>()
  for (const [name, tensor] of described) {
    const { key, dtype, elements } = tensor.storage
    const kind = `${dtype} x ${elements}`
    const before = storages.get(key) ?? kind
    if (before !== kind)
      throw zipError(path, `storage ${quoteName(key)} is described as ${before} and as ${kind}.`)
    storages.set(key, kind)
    tensors.set(name, locate(name, tensor, records.get(`${root}data/${key}`), path))
  }
  return tensors
}

async function refuseOtherFormats(file: OpenFile, path: string): Promise<void> {
  const start = await readExactly(file.handle, path, 0, Math.min(16, file.bytes), 'the first bytes')
  if (start.length >= 2 && start.subarray(0, 2).toString('latin1') === 'PK') return
  // A pickle in the open: torch.save() before 1.6 and with _use_new_zipfile_serialization=False.
  if (start[0] === 0x80) {
    throw zipError(
      path,
      'this is the legacy torch format (no zip archive), which is not read. Convert it once in Python: ' +
        'torch.save(torch.load(path, map_location="cpu", weights_only=True), path).',
    )
  }
  throw zipError(
    path,
    `it is no zip archive, expected a file written by torch.save().${commonMistake(start)}`,
  )
}

function archiveRoot(records: Map<string, ZipRecord>, path: string): string {
  const found = [...records.keys()].filter((name) => /^[^/]*\/data\.pkl$/.test(name))
  if (found.length === 1) return found[0]!.slice(0, -'data.pkl'.length)
  const count = found.length === 0 ? 'no' : `${found.length}`
  throw zipError(
    path,
    `it has ${count} records <name>/data.pkl, expected one. Was it written by torch.save()?`,
  )
}

async function checkByteOrder(file: OpenFile, path: string, record: ZipRecord | undefined): Promise<void> {
  if (!record) return // files older than torch 2.1 do not say, and are little-endian
  const length = Math.min(record.bytes, 16)
  const order = (await readExactly(file.handle, path, record.offset, length, 'byteorder')).toString('latin1')
  if (order !== 'little')
    throw zipError(
      path,
      `its byteorder is ${quoteName(order)}, expected "little". Save it again on x86 or Arm.`,
    )
}

/** Checks one view against its storage, and its storage against the record that holds it. */
function locate(
  name: string,
  tensor: PickleTensor,
  record: ZipRecord | undefined,
  path: string,
): TensorEntry {
  const { storage, offset, shape, strides } = tensor
  const what = `tensor ${quoteName(name)}`
  if (!record)
    throw zipError(
      path,
      `${what} lies in storage ${quoteName(storage.key)}, which the archive does not have.`,
    )
  const itemBytes = DTYPE_BYTES[storage.dtype]
  if (storage.elements * itemBytes !== record.bytes) {
    const wanted = `${storage.dtype} x ${storage.elements} = ${storage.elements * itemBytes} bytes`
    throw zipError(
      path,
      `${what}: storage ${quoteName(storage.key)} should be ${wanted}, its record has ${record.bytes}.`,
    )
  }
  const count = elementCount(shape)
  if (count === undefined) throw zipError(path, `${what}: shape ${formatShape(shape)} overflows.`)
  // Every term is exact as long as the sum stays within the storage, and the first that leaves it ends the sum.
  let last = offset
  if (count > 0) {
    for (const [axis, side] of shape.entries()) {
      last += (side - 1) * strides[axis]!
      if (last >= storage.elements) break
    }
  }
  if (count > 0 ? last >= storage.elements : offset > storage.elements) {
    const view = `offset ${offset}, shape ${formatShape(shape)}, strides ${formatShape(strides)}`
    throw zipError(path, `${what}: ${view} reach outside its storage of ${storage.elements} elements.`)
  }
  return {
    name,
    file: path,
    dtype: storage.dtype,
    shape,
    offset: record.offset + offset * itemBytes,
    strides,
  }
}

function zipError(path: string, message: string): OpenMoeError {
  return new OpenMoeError('ERR_OPENMOE_TORCH_ZIP', `${path}: ${message}`)
}
