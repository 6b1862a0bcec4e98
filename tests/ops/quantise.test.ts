// What int8 and int4 make of weights, and that it does not matter where they come from.
import { afterAll, describe, expect, it } from 'vitest'
import { openDevice } from '../../lib/device.ts'
import { linear } from '../../lib/ops/linear.ts'
import { groupedGemmSwiglu } from '../../lib/ops/grouped_gemm_swiglu.ts'
import { dtypeIndex, type HostTensor, type MatrixDtype, tensor } from '../../lib/tensor.ts'
import { storedWeights } from '../support/op_fixture.ts'
import { tempFolder } from '../support/temp_folder.ts'
import { f32, i32, nmse, random, randomTensor } from './describe_op.ts'

describe.each(['int8', 'int4'] as const)('%s weights', (dtype) => {
  const opened = openDevice('cpu', { threads: 2 })
  afterAll(async () => (await opened).dispose())
  const { write } = tempFolder()

  const stored = async (weight: HostTensor): Promise<ArrayLike<number>> => {
    const device = await opened
    return storedWeights(device, await device.matrix(weight, dtype), weight)
  }

  it('are close to the numbers they came from', async () => {
    const weight = randomTensor(1, [96, 256])
    // Rounding to the steps of int8 in groups of 128 normal numbers, and of int4 in groups of 32.
    expect(nmse(await stored(weight), weight.data)).toBeLessThan(dtype === 'int8' ? 4.5e-5 : 6e-3)
    const scattered = tensor(
      weight.data.map((w, i) => w * 10 ** ((i % 7) - 3)),
      [96, 256],
    )
    expect(nmse(await stored(scattered), scattered.data)).toBeLessThan(dtype === 'int8' ? 8e-5 : 2e-2)
  })

  // The bounds of docs/quantization.md for one expert, whose error the released models' layers then add to.
  it('make an expert whose outputs are close to those of f32 weights', async () => {
    const device = await opened
    const [hidden, intermediate] = [512, 1536]
    const x = randomTensor(1, [16, hidden])
    const [up, down] = [
      randomTensor(2, [3 * intermediate, hidden], hidden ** -0.5),
      randomTensor(3, [hidden, intermediate], intermediate ** -0.5),
    ]
    const expert = async (kept: MatrixDtype) => {
      const gateUp = await device.matrix(up, kept, { layout: 'gate_up' })
      const last = await device.matrix(down, kept)
      return device.run((p) => linear(p, p.asRows(groupedGemmSwiglu(p, x, gateUp, i32([0, 16]))), last))
    }
    const error = nmse((await expert(dtype)).data, (await expert('f32')).data)
    expect(error).toBeLessThan(dtype === 'int8' ? 5e-4 : 5e-2)
  })

  it('hold a group of equal, of opposite and of no numbers', async () => {
    for (const row of [new Float32Array(32).fill(3), new Float32Array(32).fill(-0.7), new Float32Array(32)]) {
      for (const value of Array.from(await stored(tensor(row, [1, 32])))) {
        expect(Math.abs(value - row[0]!)).toBeLessThanOrEqual(0.04 * Math.abs(row[0]!))
      }
    }
    const tiny = await stored(tensor(new Float32Array(32).fill(1e-42), [1, 32]))
    expect(Array.from(tiny).every((value) => Math.abs(value) < 1e-37)).toBe(true)
  })

  it('do not hide NaN or infinity', async () => {
    const device = await opened
    for (const bad of [NaN, Infinity, -Infinity]) {
      const weight = randomTensor(2, [3, 70])
      weight.data[70 + 50] = bad
      const packed = await device.matrix(weight, dtype)
      const { data } = await device.run((p) => linear(p, f32(new Array<number>(70).fill(1), [1, 70]), packed))
      expect([...data].map(Number.isFinite)).toEqual([true, false, true])
    }
  })

  it('are the same bytes from a file, in any order and at any row, as from memory', async () => {
    const device = await opened
    const [rows, cols] = [77, 300] // several groups, the last one short
    const next = random(3)
    const values = Float32Array.from({ length: rows * cols }, () => next() - 0.5)
    const whole = await device.matrix(tensor(values, [rows, cols]), dtype)
    const expected = await device.readMatrix(whole, 0, whole.bytes)
    const transposed = Float32Array.from(values, (_, i) => values[(i % rows) * cols + Math.floor(i / rows)]!)
    const files = [
      { data: values, rowStride: cols, colStride: 1 },
      { data: transposed, rowStride: 1, colStride: rows },
    ]
    for (const { data, rowStride, colStride } of files) {
      const file = write(`weights-${rowStride}`, new Uint8Array(data.buffer))
      const matrix = device.emptyMatrix(dtype, { count: 1, outFeatures: rows, inFeatures: cols })
      for (const [begin, end] of [
        [0, 41],
        [41, 77],
      ] as const) {
        const source = {
          file,
          offset: 4 * begin * rowStride,
          dtype: dtypeIndex('f32'),
          rows: end - begin,
          cols,
        }
        await device.loadMatrix({ ...source, rowStride, colStride }, matrix, 0, begin)
      }
      expect(await device.readMatrix(matrix, 0, matrix.bytes)).toEqual(expected)
    }
  })

  // 96 rows of gate_up are three parts of a whole panel each, 91 of anything lie in their order.
  it.each([
    [41, 50, 'rows'],
    [41, 55, 'gate_up'],
    [64, 32, 'gate_up'],
    [70, 122, 'gate_up'],
  ] as const)(
    'are copied from panels of %i and %i rows of %s, also into the middle of one',
    async (...given) => {
      const device = await opened
      const [rowsBefore, rowsAfter, layout] = given
      const parts = [randomTensor(4, [rowsBefore, 200]), randomTensor(5, [rowsAfter, 200])]
      const outFeatures = rowsBefore + rowsAfter
      const both = tensor(Float32Array.from([...parts[0]!.data, ...parts[1]!.data]), [outFeatures, 200])
      const whole = await device.matrix(both, dtype, { layout })
      const sources = [0, rowsBefore].map(async (rowOffset, i) => {
        const packed = await device.matrix(parts[i]!, dtype)
        const file = write(
          `panels-${outFeatures}-${rowsBefore}-${i}`,
          await device.readMatrix(packed, 0, packed.bytes),
        )
        const shape = { rows: parts[i]!.shape[0]!, cols: 200, rowStride: 200, colStride: 1 }
        return { source: { file, offset: 0, dtype: dtypeIndex(dtype), ...shape }, rowOffset }
      })
      const bytes = (m: typeof whole) => device.readMatrix(m, 0, m.bytes)
      // The panel they share keeps the lanes of the other, whichever comes first.
      for (const order of [await Promise.all(sources), (await Promise.all(sources)).reverse()]) {
        const matrix = device.emptyMatrix(dtype, { count: 1, outFeatures, inFeatures: 200, layout })
        await device.load(order.map((part) => ({ ...part, matrix, index: 0 })))
        expect(await bytes(matrix)).toEqual(await bytes(whole))
      }
    },
  )
})
