export interface RecordToZip {
  name: string
  data: Buffer
  method?: number
  flags?: number
  localName?: string // what the local header says, when it should lie
  localSize?: number
  size?: number // what the directory says
  headerOffset?: number
}

export interface ZipOptions {
  zip64?: 'never' | 'end' | 'all' // 'end' as torch writes small files; 'all' also saturates every entry
  streamed?: boolean // sizes after the data, flag bit 3, as torch writes
  comment?: string
  before?: Buffer
  gap?: Buffer // between directory and end record
  count?: number
}

/** Writes zip archives byte by byte, also such that no zip library would. */
export function buildZip(records: RecordToZip[], options: ZipOptions = {}): Buffer {
  const {
    zip64 = 'end',
    streamed = true,
    comment = '',
    before = Buffer.alloc(0),
    gap = Buffer.alloc(0),
  } = options
  const parts: Buffer[] = [before]
  const directory: Buffer[] = []
  let at = before.length
  const put = (part: Buffer): void => {
    parts.push(part)
    at += part.length
  }
  for (const record of records) {
    const offset = record.headerOffset ?? at
    const flags = (record.flags ?? 0x0800) | (streamed ? 0x0008 : 0)
    put(localHeader(record, flags, streamed, at))
    put(record.data)
    if (streamed) put(u32(0x08074b50, 0, record.data.length, record.data.length))
    directory.push(directoryEntry(record, flags, offset, zip64 === 'all'))
  }
  const start = at
  for (const entry of directory) put(entry)
  const size = at - start
  const count = options.count ?? records.length
  put(gap)
  if (zip64 !== 'never') {
    const end64 = at
    put(Buffer.concat([u32(0x06064b50), u64(44), u16(798, 45), u32(0, 0), u64(count, count, size, start)]))
    put(Buffer.concat([u32(0x07064b50, 0), u64(end64), u32(1)]))
  }
  const all = zip64 === 'all'
  put(
    Buffer.concat([
      u32(0x06054b50),
      u16(0, 0, all ? 0xffff : count, all ? 0xffff : count),
      u32(all ? 0xffffffff : size, all ? 0xffffffff : start),
      u16(comment.length),
      Buffer.from(comment),
    ]),
  )
  return Buffer.concat(parts)
}

function localHeader(record: RecordToZip, flags: number, streamed: boolean, at: number): Buffer {
  const name = Buffer.from(record.localName ?? record.name)
  const size = record.localSize ?? (streamed ? 0 : record.data.length)
  // torch pads the extra field so that the data is aligned
  const padding = (64 - ((at + 30 + name.length + 4) % 64)) % 64
  const extra = Buffer.concat([Buffer.from('FB'), u16(padding), Buffer.alloc(padding, 'Z')])
  return Buffer.concat([
    u32(0x04034b50),
    u16(0, flags, record.method ?? 0, 0, 0),
    u32(0, size, size),
    u16(name.length, extra.length),
    name,
    extra,
  ])
}

function directoryEntry(record: RecordToZip, flags: number, offset: number, saturate: boolean): Buffer {
  const name = Buffer.from(record.name)
  const size = record.size ?? record.data.length
  const extra = saturate ? Buffer.concat([u16(1, 24), u64(size, size, offset)]) : Buffer.alloc(0)
  return Buffer.concat([
    u32(0x02014b50),
    u16(798, 45, flags, record.method ?? 0, 0, 0),
    u32(0, saturate ? 0xffffffff : size, saturate ? 0xffffffff : size),
    u16(name.length, extra.length, 0, 0, 0),
    u32(0, saturate ? 0xffffffff : offset),
    name,
    extra,
  ])
}

function u16(...values: number[]): Buffer {
  const bytes = Buffer.alloc(2 * values.length)
  values.forEach((value, i) => bytes.writeUInt16LE(value, 2 * i))
  return bytes
}

function u32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length)
  values.forEach((value, i) => bytes.writeUInt32LE(value, 4 * i))
  return bytes
}

function u64(...values: number[]): Buffer {
  const bytes = Buffer.alloc(8 * values.length)
  values.forEach((value, i) => bytes.writeBigUInt64LE(BigInt(value), 8 * i))
  return bytes
}
