// Weights from a file: every dtype, stride and place, told apart by multiplying them with the identity.
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { type Device, openDevice } from '../../lib/device.ts'
import { groupedGemm } from '../../lib/ops/grouped_gemm.ts'
import { type DType, dtypeIndex, type HostTensor, type Matrix, tensor } from '../../lib/tensor.ts'
import { expectError } from '../support/expect_error.ts'
import { expectSameBits, throughBf16, toBf16 } from '../support/op_fixture.ts'
import { tempFolder } from '../support/temp_folder.ts'
import { backends, f32, i32, random } from './describe_op.ts'

type FileType = 'f32' | 'bf16' | 'f16'
type WeightType = 'f32' | 'bf16'

const PADDING = 6 // bytes before the tensor: it need not be aligned in the file

/** Bits of an f16 and the number they mean, drawn from zero, subnormal and normal numbers. */
function f16(next: () => number): { bits: number; value: number } {
  const [sign, exponent, mantissa] = [
    next() < 0.5 ? 0 : 1,
    Math.floor(next() * 31),
    Math.floor(next() * 1024),
  ]
  const size = exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15)
  return { bits: (sign << 15) | (exponent << 10) | mantissa, value: sign ? -size : size }
}

/** `count` numbers as a file holds them, and as f32. */
function numbers(dtype: FileType, count: number, seed: number): { stored: Buffer; values: Float32Array } {
  const next = random(seed)
  if (dtype === 'f16') {
    const halves = Array.from({ length: count }, () => f16(next))
    const bits = Uint16Array.from(halves, (h) => h.bits)
    return { stored: Buffer.from(bits.buffer), values: Float32Array.from(halves, (h) => h.value) }
  }
  const data = Float32Array.from({ length: count }, () => (next() - 0.5) * 2 ** (20 * next() - 10))
  if (dtype === 'f32') return { stored: Buffer.from(data.buffer), values: data }
  return { stored: Buffer.from(toBf16(data).buffer), values: throughBf16(data) }
}

/** How element [r, k] of [rows, cols] lies in the file. */
const STRIDES = {
  '[out, in]': (_: number, cols: number) => [cols, 1],
  '[in, out]': (rows: number) => [1, rows],
  'padded rows': (_: number, cols: number) => [cols + 5, 1],
  'padded columns': (rows: number) => [1, rows + 3],
  'every third': (_: number, cols: number) => [3 * cols, 3],
  'every third, [in, out]': (rows: number) => [3, 3 * rows],
  'far apart': (rows: number) => [70, 70 * rows],
} satisfies Record<string, (rows: number, cols: number) => number[]>

/** Sources of [rows, cols] at rows rowOffset.. of matrix index: at, inside and across panels of 32; odd and even cols,
 * around the 128 of a segment. */
const PLACES = [
  [1, 1, 0, 0],
  [32, 16, 32, 1],
  [45, 33, 13, 1],
  [70, 257, 3, 0],
  [100, 130, 0, 2],
] as const

describe('weight loader', () => {
  const { path: folder, write } = tempFolder()
  const opened = [openDevice('cpu', { threads: 2 }), openDevice('cpu', { threads: 1, isa: 'portable' })]
  afterAll(async () => {
    for (const device of opened) await (await device).dispose()
  })
  const device = () => opened[0]!

  function sourceFile(dtype: FileType, rows: number, cols: number, stride: keyof typeof STRIDES, seed = 1) {
    const [rowStride = 0, colStride = 0] = STRIDES[stride](rows, cols)
    const { stored, values } = numbers(dtype, (rows - 1) * rowStride + (cols - 1) * colStride + 1, seed)
    const file = write(`weights-${Math.random()}`, Buffer.concat([Buffer.alloc(PADDING, 0xff), stored]))
    const source = { file, offset: PADDING, dtype: dtypeIndex(dtype), rows, cols, rowStride, colStride }
    const at = (r: number, k: number) => values[r * rowStride + k * colStride]!
    return { source, at }
  }

  /** All of a packed matrix, [count, outFeatures, inFeatures]: what is multiplied with 1 comes out as it is stored. */
  async function unpack(on: Device, weight: Matrix): Promise<Float32Array> {
    const { count, outFeatures, inFeatures } = weight
    const identity = new Float32Array(count * inFeatures * inFeatures)
    for (let i = 0; i < count * inFeatures; i++) identity[i * inFeatures + (i % inFeatures)] = 1
    const offsets = i32(Array.from({ length: count + 1 }, (_, e) => e * inFeatures))
    const x = tensor(identity, [count * inFeatures, inFeatures])
    const { data } = await on.run((p) => groupedGemm(p, x, weight, offsets))
    return Float32Array.from({ length: data.length }, (_, i) => {
      const [e, n, k] = [
        Math.floor(i / (outFeatures * inFeatures)),
        Math.floor(i / inFeatures) % outFeatures,
        i % inFeatures,
      ]
      return data[(e * inFeatures + k) * outFeatures + n]! + 0 // a product with 0 may have left -0
    })
  }

  /** Loads a source into a stack of three matrices and expects it there, and zeros elsewhere. */
  async function packAndCompare(
    on: Device,
    from: FileType,
    to: WeightType,
    stride: keyof typeof STRIDES,
    [rows, cols, rowOffset, index]: (typeof PLACES)[number],
  ): Promise<void> {
    const weight = on.emptyMatrix(to, { count: 3, outFeatures: 101, inFeatures: cols })
    const { source, at } = sourceFile(from, rows, cols, stride)
    await on.loadMatrix(source, weight, index, rowOffset)
    const expected = new Float32Array(3 * 101 * cols)
    for (let r = 0; r < rows; r++) {
      for (let k = 0; k < cols; k++) expected[(index * 101 + rowOffset + r) * cols + k] = at(r, k) + 0
    }
    expectSameBits(await unpack(on, weight), rounded(expected, to))
    on.free(weight)
  }

  const rounded = (values: Float32Array, to: WeightType) => (to === 'bf16' ? throughBf16(values) : values)

  describe('on a GPU', () => {
    const { missing } = backends().find(({ name }) => name === 'cuda-emulator:1')!
    if (missing) {
      it.skip(`skipped: ${missing}`, () => undefined)
      return
    }
    it.each(Object.keys(STRIDES) as (keyof typeof STRIDES)[])('packs a matrix stored %s', async (stride) => {
      const gpu = await openDevice('cuda-emulator:1')
      for (const from of ['f32', 'bf16', 'f16'] as const) {
        for (const place of PLACES.slice(0, 3)) await packAndCompare(gpu, from, 'bf16', stride, place)
      }
      await gpu.dispose()
    })
  })

  for (const from of ['f32', 'bf16', 'f16'] as const) {
    for (const to of ['f32', 'bf16'] as const) {
      describe(`${from} in the file, ${to} on the device`, () => {
        it.each(Object.keys(STRIDES) as (keyof typeof STRIDES)[])(
          'packs a matrix stored %s',
          async (stride) => {
            for (const place of PLACES) await packAndCompare(await device(), from, to, stride, place)
          },
        )

        it.each(Object.keys(STRIDES) as (keyof typeof STRIDES)[])(
          'loads plain rows stored %s',
          async (stride) => {
            const on = await device()
            for (const [rows, cols] of [
              [1, 1],
              [1, 300],
              [45, 33],
              [70, 131],
            ] as const) {
              const loaded = on.empty(to, [rows, cols])
              const { source, at } = sourceFile(from, rows, cols, stride)
              await on.loadRows(source, loaded)
              const expected = Float32Array.from({ length: rows * cols }, (_, i) =>
                at(Math.floor(i / cols), i % cols),
              )
              expectSameBits((await on.read(loaded)).data, to === 'bf16' ? toBf16(expected) : expected)
            }
          },
        )
      })
    }
  }

  it('fuses two sources that share a panel', async () => {
    const on = await device()
    const weight = on.emptyMatrix('bf16', { count: 1, outFeatures: 100, inFeatures: 35 })
    const first = sourceFile('f32', 43, 35, '[out, in]', 1)
    const second = sourceFile('f32', 57, 35, '[in, out]', 2)
    await on.loadMatrix(second.source, weight, 0, 43)
    await on.loadMatrix(first.source, weight, 0, 0)
    const expected = Float32Array.from({ length: 3500 }, (_, i) => {
      const [r, k] = [Math.floor(i / 35), i % 35]
      return r < 43 ? first.at(r, k) : second.at(r - 43, k)
    })
    expectSameBits(await unpack(on, weight), throughBf16(expected))
  })

  it.each(['[out, in]', '[in, out]'] as const)('packs a matrix of many tiles stored %s', async (stride) => {
    const { source, at } = sourceFile('f32', 700, 4500, stride)
    const checksums = []
    for (const on of await Promise.all(opened)) {
      const weight = on.emptyMatrix('f32', { count: 1, outFeatures: 700, inFeatures: 4500 })
      await on.loadMatrix(source, weight, 0, 0)
      // Three rows of the identity; the whole of it is large.
      const columns = [0, 2049, 4499]
      const x = new Float32Array(3 * 4500)
      columns.forEach((k, i) => (x[i * 4500 + k] = 1))
      const out = await on.run((p) => groupedGemm(p, tensor(x, [3, 4500]), weight, i32([0, 3])))
      const expected = Float32Array.from({ length: 2100 }, (_, i) =>
        at(i % 700, columns[Math.floor(i / 700)]!),
      )
      expect([...out.data]).toEqual([...expected])
      checksums.push(out.data)
    }
    expectSameBits(checksums[0]!, checksums[1]!)
  })

  it('packs host weights as it packs a file', async () => {
    const on = await device()
    for (const dtype of ['f32', 'bf16'] as const) {
      const { values } = numbers('f32', 3 * 45 * 33, 5)
      const packed = await on.matrix(tensor(values, [3, 45, 33]), dtype)
      expectSameBits(await unpack(on, packed), rounded(values, dtype))
    }
  })

  it('rounds to nearest even, and keeps infinity, NaN and f16 subnormals', async () => {
    const on = await device()
    const load = async (
      stored: Float32Array | Uint16Array,
      from: DType,
      to: WeightType,
    ): Promise<HostTensor> => {
      const file = write(`special-${from}-${to}`, new Uint8Array(stored.buffer))
      const loaded = on.empty(to, [stored.length])
      const shape = { rows: 1, cols: stored.length, rowStride: stored.length, colStride: 1 }
      await on.loadRows({ file, offset: 0, dtype: dtypeIndex(from), ...shape }, loaded)
      return on.read(loaded)
    }
    const ties = Float32Array.of(1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20, -1 - 2 ** -8, 3.4e38)
    expect([...(await load(ties, 'f32', 'bf16')).data]).toEqual([0x3f80, 0x3f82, 0x3f81, 0xbf80, 0x7f80])
    const [nan] = (await load(Float32Array.of(NaN), 'f32', 'bf16')).data
    expect(nan! & 0x7fff).toBeGreaterThan(0x7f80)
    const halves = Uint16Array.of(0x0001, 0x83ff, 0x7c00, 0xfc00, 0x7e00, 0x8000, 0x7bff)
    expect([...(await load(halves, 'f16', 'f32')).data]).toEqual([
      2 ** -24,
      -1023 * 2 ** -24,
      Infinity,
      -Infinity,
      NaN,
      -0,
      65504,
    ])
  })

  it('accepts a matrix without rows or columns, whatever the file', async () => {
    const on = await device()
    const weight = on.emptyMatrix('f32', { count: 1, outFeatures: 4, inFeatures: 0 })
    const shape = { rows: 4, cols: 0, rowStride: 0, colStride: 1 }
    await on.loadMatrix({ file: join(folder, 'none'), offset: 0, dtype: 0, ...shape }, weight, 0, 0)
    const out = await on.run((p) => groupedGemm(p, f32([], [2, 0]), weight, i32([0, 1])))
    expect([...out.data]).toEqual([0, 0, 0, 0, 0, 0, 0, 0])
  })

  it('says that a file is too short, missing, or a folder', async () => {
    const on = await device()
    const weight = on.emptyMatrix('f32', { count: 1, outFeatures: 40, inFeatures: 30 })
    const { source } = sourceFile('f32', 40, 30, '[out, in]')
    const load = (change: Partial<typeof source>) => on.loadMatrix({ ...source, ...change }, weight, 0, 0)
    await load({})
    await expectError(
      load({ offset: PADDING + 1 }),
      'ERR_OPENMOE_FILE_TRUNCATED',
      /weights-.*ends after 4806 bytes/,
    )
    await expectError(load({ rowStride: 1e12 }), 'ERR_OPENMOE_FILE_TRUNCATED')
    await expectError(load({ offset: 2 ** 52 }), 'ERR_OPENMOE_FILE_TRUNCATED')
    await expectError(
      load({ file: join(folder, 'none') }),
      'ERR_OPENMOE_FILE_READ',
      /none: open failed \(No such file/,
    )
    await expectError(
      load({ file: folder, offset: 0, rowStride: 0, colStride: 0 }),
      'ERR_OPENMOE_FILE_READ',
      /read failed/,
    )
  })
})
