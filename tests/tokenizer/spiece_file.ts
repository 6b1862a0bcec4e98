/** Writes and reads spiece.model files for the tests, independently of native/tokenizer. */

export interface SpiecePiece {
  text: string | Uint8Array
  score?: number
  type?: number
}

export interface SpieceFile {
  pieces: SpiecePiece[]
  byteFallback?: boolean
  modelType?: number
  charsmap?: Uint8Array
  addDummyPrefix?: boolean
  removeExtraWhitespaces?: boolean
}

function varint(value: number): number[] {
  const bytes: number[] = []
  let rest = BigInt.asUintN(64, BigInt(value))
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128)
  return [...bytes, Number(rest)]
}

const integer = (field: number, value: number) => Buffer.from([...varint(field * 8), ...varint(value)])
const bytes = (field: number, value: Uint8Array) =>
  Buffer.concat([Buffer.from([...varint(field * 8 + 2), ...varint(value.length)]), value])

function float(field: number, value: number): Buffer {
  const out = Buffer.alloc(5)
  out[0] = field * 8 + 5
  out.writeFloatLE(value, 1)
  return out
}

function piece({ text, score = 0, type = 1 }: SpiecePiece): Buffer {
  const body = Buffer.concat([bytes(1, Buffer.from(text as string)), float(2, score), integer(3, type)])
  return bytes(1, body)
}

export function writeSpiece(file: SpieceFile): Buffer {
  const trainer = Buffer.concat([
    integer(3, file.modelType ?? 1),
    integer(35, Number(file.byteFallback ?? false)),
  ])
  const normalizer = Buffer.concat([
    ...(file.charsmap ? [bytes(2, file.charsmap)] : []),
    integer(3, Number(file.addDummyPrefix ?? true)),
    integer(4, Number(file.removeExtraWhitespaces ?? false)),
  ])
  return Buffer.concat([...file.pieces.map(piece), bytes(2, trainer), bytes(3, normalizer)])
}

/** <pad>, </s>, <unk>, and with `byteFallback` the 256 byte pieces: what every test model starts with. */
export function basePieces(byteFallback: boolean): SpiecePiece[] {
  const hex = (byte: number) => byte.toString(16).toUpperCase().padStart(2, '0')
  return [
    { text: '<pad>', type: 3 },
    { text: '</s>', type: 3 },
    { text: '<unk>', type: 2 },
    ...(byteFallback ? Array.from({ length: 256 }, (_, b) => ({ text: `<0x${hex(b)}>`, type: 6 })) : []),
  ]
}

interface Field {
  field: number
  value: Buffer | number
}

function* fields(message: Buffer): Generator<Field> {
  let at = 0
  const readVarint = () => {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const byte = message[at++]!
      value += (byte & 127) * 2 ** shift
      if (byte < 128) return value
    }
  }
  while (at < message.length) {
    const tag = readVarint()
    const field = Math.floor(tag / 8)
    if (tag % 8 === 0) yield { field, value: readVarint() }
    else if (tag % 8 === 5) yield { field, value: message.readFloatLE((at += 4) - 4) }
    else {
      const length = readVarint()
      yield { field, value: message.subarray(at, (at += length)) }
    }
  }
}

const last = (message: Buffer, field: number) =>
  [...fields(message)].filter((f) => f.field === field).at(-1)?.value

/** The pieces and the normaliser of a spiece.model. */
export function readSpiece(file: Buffer) {
  const messages = (field: number) =>
    [...fields(file)].filter((f) => f.field === field).map((f) => f.value as Buffer)
  const normalizer = messages(3)[0]!
  return {
    pieces: messages(1).map((message) => ({
      text: String(last(message, 1)),
      score: Number(last(message, 2) ?? 0),
      type: Number(last(message, 3) ?? 1),
    })),
    charsmap: (last(normalizer, 2) as Buffer | undefined) ?? Buffer.alloc(0),
    addDummyPrefix: last(normalizer, 3) !== 0,
    removeExtraWhitespaces: last(normalizer, 4) !== 0,
  }
}
