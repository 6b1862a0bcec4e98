import { isUtf8 } from 'node:buffer'
import type { OpenFile } from './file_reader.ts'
import { failWith, readExactly } from './file_reader.ts'
import { quoteName } from './tensor_index.ts'

/** One stored (uncompressed) record: its bytes are `bytes` bytes of the file from `offset`. */
export interface ZipRecord {
  name: string
  offset: number
  bytes: number
}

interface DirectoryEntry {
  name: string
  nameBytes: Buffer
  bytes: number
  headerOffset: number
}

const END_BYTES = 22
const END64_BYTES = 56
const LOCATOR_BYTES = 20
const MAX_COMMENT_BYTES = 0xffff
const MAX_RECORDS = 65_536
const MAX_DIRECTORY_BYTES = 64 * 1024 * 1024
const SIGNATURE = {
  end: 0x06054b50,
  end64: 0x06064b50,
  locator: 0x07064b50,
  entry: 0x02014b50,
  local: 0x04034b50,
}
// Encrypted, patched, strongly encrypted, masked headers: torch.save() sets none of them.
const REFUSED_FLAGS = 0x0001 | 0x0020 | 0x0040 | 0x2000
const SATURATED_16 = 0xffff
const SATURATED_32 = 0xffffffff

type Fail = (message: string) => never

/**
 * Lists the records of a zip archive as torch.save() writes it: stored records only, zip64 or not. The checksums are not
 * looked at (torch can be told not to write them), and nothing is ever decompressed. Two readers must not be able to
 * see two different archives in one file, so whatever is ambiguous is refused: records that overlap, doubled names, gaps
 * before or after the directory, a local header that disagrees with its directory entry.
 */
export async function readZipDirectory(file: OpenFile, path: string): Promise<Map<string, ZipRecord>> {
  const failZip = failWith('ERR_OPENMOE_TORCH_ZIP', path)
  const fail: Fail = (message) =>
    failZip(`zip archive: ${message} Download the file again, or re-save it with torch.save().`)
  const directory = await findDirectory(file, path, fail)
  const raw = await readExactly(file.handle, path, directory.offset, directory.bytes, 'the zip directory')
  const entries = parseDirectory(raw, directory.count, fail)
  entries.sort((a, b) => a.headerOffset - b.headerOffset)

  const records = new Map<string, ZipRecord>()
  let previousEnd = 0
  for (let at = 0; at < entries.length; at += PARALLEL_READS) {
    const group = entries.slice(at, at + PARALLEL_READS)
    const offsets = await Promise.all(
      group.map((entry) => dataOffset(file, path, entry, directory.offset, fail)),
    )
    for (const [i, entry] of group.entries()) {
      const offset = offsets[i]!
      if (entry.headerOffset < previousEnd)
        fail(`record ${quoteName(entry.name)} overlaps the record before it.`)
      previousEnd = offset + entry.bytes
      if (previousEnd > directory.offset) {
        fail(`record ${quoteName(entry.name)} ends at ${previousEnd}, beyond the start of the directory.`)
      }
      if (records.has(entry.name)) fail(`two records are named ${quoteName(entry.name)}.`)
      records.set(entry.name, { name: entry.name, offset, bytes: entry.bytes })
    }
  }
  return records
}

// Local headers are small reads all over the file: a few at a time keep a spinning or network disk busy.
const PARALLEL_READS = 32

interface Directory {
  offset: number
  bytes: number
  count: number
}

async function findDirectory(file: OpenFile, path: string, fail: Fail): Promise<Directory> {
  if (file.bytes < END_BYTES)
    fail(`${file.bytes} bytes are too short for an archive; the file was cut short.`)
  const tailBytes = Math.min(file.bytes, END_BYTES + MAX_COMMENT_BYTES + LOCATOR_BYTES)
  const tail = await readExactly(
    file.handle,
    path,
    file.bytes - tailBytes,
    tailBytes,
    'the end of the archive',
  )
  const at = findEnd(tail)
  if (at < 0) fail('it has no end record, so the file was cut short or is no archive.')
  const end = tail.subarray(at)
  const endOffset = file.bytes - tailBytes + at
  const near: Directory = {
    offset: end.readUInt32LE(16),
    bytes: end.readUInt32LE(12),
    count: end.readUInt16LE(10),
  }
  if (end.readUInt16LE(4) !== 0 || end.readUInt16LE(6) !== 0) fail('it is split over several disks.')
  if (end.readUInt16LE(8) !== near.count) fail('the end record counts its entries in two ways.')

  const hasLocator = at >= LOCATOR_BYTES && tail.readUInt32LE(at - LOCATOR_BYTES) === SIGNATURE.locator
  const saturated = near.offset === SATURATED_32 || near.bytes === SATURATED_32 || near.count === SATURATED_16
  if (!hasLocator && saturated) fail('its zip64 end record is missing.')
  const locator = tail.subarray(at - LOCATOR_BYTES, at)
  const far = hasLocator ? await readEnd64(file, path, locator, endOffset - LOCATOR_BYTES, fail) : undefined
  if (far) {
    if (near.offset !== SATURATED_32 && near.offset !== far.offset)
      fail('its two end records disagree on the offset.')
    if (near.bytes !== SATURATED_32 && near.bytes !== far.bytes)
      fail('its two end records disagree on the size.')
    if (near.count !== SATURATED_16 && near.count !== far.count)
      fail('its two end records disagree on the count.')
  }
  const { stop, ...directory } = far ?? { ...near, stop: endOffset }
  if (directory.count > MAX_RECORDS)
    fail(`it has ${directory.count} records, at most ${MAX_RECORDS} are read.`)
  if (directory.bytes > MAX_DIRECTORY_BYTES) fail(`its directory takes ${directory.bytes} bytes.`)
  if (directory.offset + directory.bytes !== stop) {
    fail(
      `its directory is said to lie at ${directory.offset}, ${directory.bytes} bytes long, but must end at ${stop}.`,
    )
  }
  return directory
}

/** The end record must reach the last byte of the file with its comment; the last such place wins. */
function findEnd(tail: Buffer): number {
  for (let at = tail.length - END_BYTES; at >= 0; at--) {
    if (tail.readUInt32LE(at) !== SIGNATURE.end) continue
    if (at + END_BYTES + tail.readUInt16LE(at + 20) === tail.length) return at
  }
  return -1
}

async function readEnd64(file: OpenFile, path: string, locator: Buffer, stop: number, fail: Fail) {
  const offset = safeNumber(locator.readBigUInt64LE(8), 'zip64 end offset', fail)
  if (locator.readUInt32LE(4) !== 0 || locator.readUInt32LE(16) > 1) fail('it is split over several disks.')
  if (offset + END64_BYTES > stop) fail(`its zip64 end record is said to lie at ${offset}, outside the file.`)
  const end = await readExactly(file.handle, path, offset, END64_BYTES, 'the zip64 end record')
  if (end.readUInt32LE(0) !== SIGNATURE.end64) fail(`there is no zip64 end record at ${offset}.`)
  if (BigInt(offset) + 12n + end.readBigUInt64LE(4) !== BigInt(stop))
    fail('its zip64 end record has a wrong size.')
  if (end.readUInt32LE(16) !== 0 || end.readUInt32LE(20) !== 0) fail('it is split over several disks.')
  if (end.readBigUInt64LE(24) !== end.readBigUInt64LE(32))
    fail('the zip64 end record counts its entries in two ways.')
  return {
    count: safeNumber(end.readBigUInt64LE(32), 'record count', fail),
    bytes: safeNumber(end.readBigUInt64LE(40), 'directory size', fail),
    offset: safeNumber(end.readBigUInt64LE(48), 'directory offset', fail),
    stop: offset,
  }
}

function parseDirectory(raw: Buffer, count: number, fail: Fail): DirectoryEntry[] {
  const entries: DirectoryEntry[] = []
  let at = 0
  for (let i = 0; i < count; i++) {
    if (at + 46 > raw.length || raw.readUInt32LE(at) !== SIGNATURE.entry)
      fail(`directory entry ${i} of ${count} is broken.`)
    const nameBytes = raw.subarray(at + 46, at + 46 + raw.readUInt16LE(at + 28))
    const extraStart = at + 46 + raw.readUInt16LE(at + 28)
    const extraEnd = extraStart + raw.readUInt16LE(at + 30)
    const next = extraEnd + raw.readUInt16LE(at + 32)
    if (next > raw.length) fail(`directory entry ${i} of ${count} runs past the directory.`)
    if (!isUtf8(nameBytes) || nameBytes.includes(0)) fail(`the name of directory entry ${i} is not text.`)
    const name = nameBytes.toString('utf8')
    if (raw.readUInt16LE(at + 8) & REFUSED_FLAGS) fail(`record ${quoteName(name)} is encrypted or patched.`)
    if (raw.readUInt16LE(at + 10) !== 0)
      fail(`record ${quoteName(name)} is compressed; torch.save() stores them as they are.`)
    const sizes = entrySizes(raw, at, raw.subarray(extraStart, extraEnd), name, fail)
    entries.push({ name, nameBytes, ...sizes })
    at = next
  }
  if (at !== raw.length) fail(`${raw.length - at} bytes follow the last directory entry.`)
  return entries
}

function entrySizes(raw: Buffer, at: number, extra: Buffer, name: string, fail: Fail) {
  const fields = {
    bytes: raw.readUInt32LE(at + 24),
    stored: raw.readUInt32LE(at + 20),
    headerOffset: raw.readUInt32LE(at + 42),
  }
  let disk = raw.readUInt16LE(at + 34)
  let zip64 = findExtra(extra, 0x0001)
  // The zip64 field holds only what did not fit, in this fixed order.
  for (const key of ['bytes', 'stored', 'headerOffset'] as const) {
    if (fields[key] !== SATURATED_32) continue
    if (!zip64 || zip64.length < 8) fail(`record ${quoteName(name)} lacks its zip64 sizes.`)
    fields[key] = safeNumber(zip64.readBigUInt64LE(0), `${key} of record ${quoteName(name)}`, fail)
    zip64 = zip64.subarray(8)
  }
  if (disk === SATURATED_16 && zip64 && zip64.length >= 4) disk = zip64.readUInt32LE(0)
  if (disk !== 0) fail(`record ${quoteName(name)} lies on another disk.`)
  if (fields.bytes !== fields.stored)
    fail(`record ${quoteName(name)} has two sizes, ${fields.stored} and ${fields.bytes}.`)
  return { bytes: fields.bytes, headerOffset: fields.headerOffset }
}

function findExtra(extra: Buffer, id: number): Buffer | undefined {
  for (let at = 0; at + 4 <= extra.length;) {
    const end = at + 4 + extra.readUInt16LE(at + 2)
    if (end > extra.length) return undefined
    if (extra.readUInt16LE(at) === id) return extra.subarray(at + 4, end)
    at = end
  }
  return undefined
}

/** Checks the local header, whose own name and padding decide where the data begins. */
async function dataOffset(file: OpenFile, path: string, entry: DirectoryEntry, limit: number, fail: Fail) {
  const what = `record ${quoteName(entry.name)}`
  const headerBytes = 30 + entry.nameBytes.length
  if (entry.headerOffset + headerBytes > limit)
    fail(`${what} is said to lie at ${entry.headerOffset}, outside the records.`)
  const local = await readExactly(file.handle, path, entry.headerOffset, headerBytes, `the header of ${what}`)
  if (local.readUInt32LE(0) !== SIGNATURE.local) fail(`${what} has no header at ${entry.headerOffset}.`)
  const flags = local.readUInt16LE(6)
  if (flags & REFUSED_FLAGS || local.readUInt16LE(8) !== 0)
    fail(`${what} is compressed or encrypted in its own header.`)
  if (local.readUInt16LE(26) !== entry.nameBytes.length || !local.subarray(30).equals(entry.nameBytes)) {
    fail(`${what} has another name in its own header.`)
  }
  // Bit 3: torch streams records, so the sizes follow the data and are 0 here. Else they are real, or in a zip64 field.
  for (const size of [local.readUInt32LE(18), local.readUInt32LE(22)]) {
    const deferred = (flags & 0x0008) !== 0 && size === 0
    if (!deferred && size !== SATURATED_32 && size !== entry.bytes)
      fail(`${what} has another size in its own header.`)
  }
  return entry.headerOffset + headerBytes + local.readUInt16LE(28)
}

function safeNumber(value: bigint, what: string, fail: Fail): number {
  return value <= BigInt(Number.MAX_SAFE_INTEGER)
    ? Number(value)
    : fail(`its ${what} is ${value}, beyond 2^53.`)
}
