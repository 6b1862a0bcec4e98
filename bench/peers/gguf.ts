// Writes GGUF v3 files (ggml's docs/gguf.md): key-values, tensor descriptions, data aligned to 32 bytes.
import { closeSync, openSync, writeSync } from 'node:fs'

export type GgufValue =
  | { u32: number }
  | { f32: number }
  | { string: string }
  | { strings: string[] }
  | { f32s: Float32Array }
  | { i32s: Int32Array }

/** ggml's numbers of the tensor types written here. */
export const GGML_TYPES = { F32: 0, Q4_0: 2, Q8_0: 8, BF16: 30 } as const
export type GgmlType = keyof typeof GGML_TYPES

/** Numbers in a block, and its bytes: the quantized types keep an f16 scale per 32 numbers. */
export const GGML_BLOCKS: Record<GgmlType, { numbers: number; bytes: number }> = {
  F32: { numbers: 1, bytes: 4 },
  BF16: { numbers: 1, bytes: 2 },
  Q8_0: { numbers: 32, bytes: 34 },
  Q4_0: { numbers: 32, bytes: 18 },
}

export interface GgufTensor {
  name: string
  type: GgmlType
  /** Row-major, as everywhere else here; GGUF stores it innermost first. */
  shape: readonly number[]
  data: () => Iterable<Uint8Array>
}

const ALIGNMENT = 32
const [U32, F32, STRING, ARRAY, I32] = [4, 6, 8, 9, 5]

export function ggmlBytes(type: GgmlType, shape: readonly number[]): number {
  const { numbers, bytes } = GGML_BLOCKS[type]
  return (shape.reduce((product, side) => product * side, 1) / numbers) * bytes
}

export function writeGguf(
  file: string,
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufTensor[],
): void {
  const head = new ByteWriter()
  head.bytes(Buffer.from('GGUF')).u32(3).u64(tensors.length).u64(Object.keys(metadata).length)
  for (const [key, value] of Object.entries(metadata)) writeValue(head.string(key), value)
  let offset = 0
  for (const { name, type, shape } of tensors) {
    head.string(name).u32(shape.length)
    for (const side of [...shape].reverse()) head.u64(side)
    head.u32(GGML_TYPES[type]).u64(offset)
    offset += padded(ggmlBytes(type, shape))
  }
  const fd = openSync(file, 'w')
  try {
    let at = 0
    const put = (chunk: Uint8Array): void => {
      writeSync(fd, chunk)
      at += chunk.byteLength
    }
    const align = (): void => put(new Uint8Array(padded(at) - at))
    put(head.toBuffer())
    align()
    for (const { data } of tensors) {
      for (const chunk of data()) put(chunk)
      align()
    }
  } finally {
    closeSync(fd)
  }
}

const padded = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

function writeValue(out: ByteWriter, value: GgufValue): void {
  if ('u32' in value) out.u32(U32).u32(value.u32)
  else if ('f32' in value) out.u32(F32).bytes(new Float32Array([value.f32]))
  else if ('string' in value) out.u32(STRING).string(value.string)
  else if ('f32s' in value) out.u32(ARRAY).u32(F32).u64(value.f32s.length).bytes(value.f32s)
  else if ('i32s' in value) out.u32(ARRAY).u32(I32).u64(value.i32s.length).bytes(value.i32s)
  else {
    out.u32(ARRAY).u32(STRING).u64(value.strings.length)
    for (const text of value.strings) out.string(text)
  }
}

class ByteWriter {
  private readonly parts: Buffer[] = []

  bytes(data: ArrayBufferView): this {
    this.parts.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength))
    return this
  }

  u32(value: number): this {
    return this.bytes(new Uint32Array([value]))
  }

  u64(value: number): this {
    return this.bytes(new BigUint64Array([BigInt(value)]))
  }

  string(text: string): this {
    const data = Buffer.from(text)
    return this.u64(data.byteLength).bytes(data)
  }

  toBuffer(): Buffer {
    return Buffer.concat(this.parts)
  }
}
