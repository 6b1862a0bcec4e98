import { widenBfloat16 } from '../../lib/checkpoint/safetensors.ts'

/** bf16 bits of f32 numbers, rounded to nearest even. */
export function toBf16(values: ArrayLike<number>): Uint16Array {
  const word = new DataView(new ArrayBuffer(4))
  return Uint16Array.from({ length: values.length }, (_, i) => {
    word.setFloat32(0, values[i]!)
    const high = word.getUint16(0)
    const low = word.getUint16(2)
    return low > 0x8000 || (low === 0x8000 && high % 2 === 1) ? high + 1 : high
  })
}

export const throughBf16 = (values: ArrayLike<number>): Float32Array => widenBfloat16(toBf16(values))
