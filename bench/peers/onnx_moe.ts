// Writes an ONNX model that is one com.microsoft MoE (f32) or QMoE (int8, int4) node with an OpenMoE's expert shapes and
// random weights. Its CPU kernels have no third FFN matrix, so F' = 4 F / 3 as for llama.cpp.
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { basename } from 'node:path'
import type { BenchShape } from '../shapes.ts'
import { ffnRows } from './llama_model.ts'

export type OnnxWeights = 'f32' | 'int8' | 'int4'

const [FLOAT, UINT8] = [1, 2] // TensorProto.DataType
const BLOCK = 32
const PAGE = 4096

/** Writes `file` and, beside it, `file.data` with the weights. */
export function writeOnnxMoe(file: string, shape: BenchShape, weights: OnnxWeights): void {
  const { hiddenSize: d, numExperts: e } = shape
  const f = ffnRows(shape)
  const data = new WeightFile(`${file}.data`)
  try {
    const perByte = weights === 'int4' ? 2 : 1
    const matrices: Buffer[] =
      weights === 'f32'
        ? [data.tensor('w1', FLOAT, [e, 2 * f, d]), data.tensor('w2', FLOAT, [e, d, f])]
        : [
            data.tensor('w1', UINT8, [e, 2 * f, d / perByte]),
            data.tensor('s1', FLOAT, [e, 2 * f, d / BLOCK], 0.02 / 64),
            data.tensor('w2', UINT8, [e, d, f / perByte]),
            data.tensor('s2', FLOAT, [e, d, f / BLOCK], 0.02 / 64),
          ]
    const gate = Float32Array.from({ length: d * e }, () => Math.random() - 0.5)
    const initializers = [...matrices, rawTensor('gate', [d, e], gate)]
    const router = node('MatMul', '', ['x', 'gate'], ['r'], [])
    const graph = [
      ...[router, moeNode(weights)].map((n) => field(1, n)),
      field(2, text('moe')),
      ...initializers.map((tensor) => field(5, tensor)),
      field(11, valueInfo('x', d)),
      field(12, valueInfo('y', d)),
    ]
    const opset = (domain: string, version: number): Buffer =>
      Buffer.concat([field(1, text(domain)), integer(2, version)])
    const model = [
      integer(1, 10),
      field(7, Buffer.concat(graph)),
      field(8, opset('', 17)),
      field(8, opset('com.microsoft', 1)),
    ]
    writeFileSync(file, Buffer.concat(model))
  } finally {
    data.close()
  }
}

function moeNode(weights: OnnxWeights): Buffer {
  const common = [
    intAttribute('k', 2),
    stringAttribute('activation_type', 'swiglu'),
    intAttribute('swiglu_fusion', 1),
    intAttribute('normalize_routing_weights', 0),
    floatAttribute('activation_alpha', 1),
    floatAttribute('activation_beta', 0),
  ]
  if (weights === 'f32') return node('MoE', 'com.microsoft', ['x', 'r', 'w1', '', 'w2'], ['y'], common)
  const quantized = [
    intAttribute('expert_weight_bits', weights === 'int8' ? 8 : 4),
    intAttribute('block_size', BLOCK),
  ]
  const inputs = ['x', 'r', 'w1', 's1', '', 'w2', 's2']
  return node('QMoE', 'com.microsoft', inputs, ['y'], [...common, ...quantized])
}

/** The external data of a model. */
class WeightFile {
  private readonly fd: number
  private readonly name: string
  private at = 0

  constructor(path: string) {
    this.fd = openSync(path, 'w')
    this.name = basename(path)
  }

  close(): void {
    closeSync(this.fd)
  }

  /** A TensorProto whose numbers, random or all `value`, are in this file. */
  tensor(name: string, type: number, shape: readonly number[], value?: number): Buffer {
    const count = shape.reduce((product, side) => product * side, 1)
    const offset = this.at
    const pool = randomPool(type, Math.min(count, 1 << 22), value)
    const bytesEach = pool.byteLength / pool.length
    for (let left = count; left > 0; left -= pool.length) this.put(pool.subarray(0, left))
    this.put(new Uint8Array(Math.ceil(this.at / PAGE) * PAGE - this.at))
    const entry = (key: string, text_: string): Buffer =>
      field(13, Buffer.concat([field(1, text(key)), field(2, text(text_))]))
    return Buffer.concat([
      ...shape.map((side) => integer(1, side)),
      integer(2, type),
      field(8, text(name)),
      entry('location', this.name),
      entry('offset', String(offset)),
      entry('length', String(count * bytesEach)),
      integer(14, 1), // data_location: external
    ])
  }

  private put(data: Uint8Array | Float32Array): void {
    writeSync(this.fd, data)
    this.at += data.byteLength
  }
}

function randomPool(type: number, count: number, value?: number): Float32Array | Uint8Array {
  if (type === UINT8) return Uint8Array.from({ length: count }, () => 64 + Math.random() * 128)
  return Float32Array.from({ length: count }, () => value ?? (Math.random() - 0.5) * 0.07)
}

function rawTensor(name: string, shape: readonly number[], data: Float32Array): Buffer {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  const dims = shape.map((side) => integer(1, side))
  return Buffer.concat([...dims, integer(2, FLOAT), field(8, text(name)), field(9, bytes)])
}

function node(
  type: string,
  domain: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attributes: readonly Buffer[],
): Buffer {
  return Buffer.concat([
    ...inputs.map((name) => field(1, text(name))),
    ...outputs.map((name) => field(2, text(name))),
    field(4, text(type)),
    ...attributes.map((attribute) => field(5, attribute)),
    field(7, text(domain)),
  ])
}

const intAttribute = (name: string, value: number): Buffer =>
  Buffer.concat([field(1, text(name)), integer(3, value), integer(20, 2)])
const stringAttribute = (name: string, value: string): Buffer =>
  Buffer.concat([field(1, text(name)), field(4, text(value)), integer(20, 3)])
function floatAttribute(name: string, value: number): Buffer {
  const bytes = Buffer.from(new Float32Array([value]).buffer)
  return Buffer.concat([field(1, text(name)), varint((2 << 3) | 5), bytes, integer(20, 1)])
}

/** ValueInfoProto of f32 [T, width]. */
function valueInfo(name: string, width: number): Buffer {
  const dims = [field(1, field(2, text('T'))), field(1, integer(1, width))]
  const tensor = Buffer.concat([integer(1, FLOAT), field(2, Buffer.concat(dims))])
  return Buffer.concat([field(1, text(name)), field(2, field(1, tensor))])
}

// Protocol buffers: varints, and fields with a length.
const text = (value: string): Buffer => Buffer.from(value)
const integer = (number: number, value: number): Buffer => Buffer.concat([varint(number << 3), varint(value)])
const field = (number: number, data: Buffer): Buffer =>
  Buffer.concat([varint((number << 3) | 2), varint(data.byteLength), data])

function varint(value: number): Buffer {
  const bytes: number[] = []
  for (; value > 0x7f; value = Math.floor(value / 128)) bytes.push((value % 128) | 0x80)
  return Buffer.from([...bytes, value])
}
