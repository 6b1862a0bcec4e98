/** The bytes of a safetensors file with exactly this header text (or bytes), right or wrong, and this data. */
export function safetensorsBytes(header: string | Buffer | object, data: Uint8Array | number = 0): Buffer {
  const text = Buffer.isBuffer(header)
    ? header
    : Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.byteLength))
  return Buffer.concat([length, text, typeof data === 'number' ? Buffer.alloc(data) : data])
}

export function headerLength(value: bigint): Buffer {
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(value)
  return length
}
