// The numbers of a packed int8 or int4 matrix, read off its bytes as docs/quantization.md describes them.
import type { Matrix } from '#lib/tensor'

/**
 * Weights [rows, cols] of `panels`, the bytes of one matrix. Those of a gate_up matrix whose parts are whole panels
 * follow each other as a, b, up of 32 features, then of the next 32.
 */
export function unpackPanels(
  panels: Uint8Array,
  {
    dtype,
    layout,
    outFeatures: rows,
    inFeatures: cols,
  }: Pick<Matrix, 'dtype' | 'layout' | 'outFeatures' | 'inFeatures'>,
): Float64Array {
  const view = new DataView(panels.buffer, panels.byteOffset, panels.byteLength)
  const length = dtype === 'int8' ? 128 : 32
  const groupBytes = 32 * 2 + (dtype === 'int8' ? 32 * length : (32 * length) / 2)
  const groups = Math.ceil(cols / length)
  const weights = new Float64Array(rows * cols)
  const part = rows / 3 / 32
  const interleaved = layout === 'gate_up' && Number.isInteger(part)
  for (let row = 0; row < rows; row++) {
    const lane = row % 32
    const panel = Math.floor(row / 32)
    const place = interleaved ? (panel % part) * 3 + Math.floor(panel / part) : panel
    for (let k = 0; k < cols; k++) {
      const group = (place * groups + Math.floor(k / length)) * groupBytes
      const scale = view.getUint16(group + 2 * lane, true)
      const at = k % length
      weights[row * cols + k] =
        dtype === 'int8'
          ? bf16(scale) * (view.getUint8(group + 64 + Math.floor(at / 4) * 128 + 4 * lane + (at % 4)) - 128)
          : int4Scale(scale) *
            (nibble(view, group + 64 + Math.floor(at / 8) * 128 + 4 * lane, at % 8) - (scale % 16))
    }
  }
  return weights
}

/** k to k + 3 in the low nibbles of a word's bytes, k + 4 to k + 7 in the high ones. */
function nibble(view: DataView, word: number, i: number): number {
  return (view.getUint8(word + (i % 4)) >> (i < 4 ? 0 : 4)) % 16
}

function bf16(bits: number): number {
  const view = new DataView(new ArrayBuffer(4))
  view.setUint16(0, bits)
  return view.getFloat32(0)
}

/** 8 bits of exponent, 4 of mantissa, 4 that are the zero point. */
const int4Scale = (bits: number): number => 2 ** ((bits >> 8) - 127) * (1 + ((bits >> 4) % 16) / 16)
