// Loads the addon and types it. The only file that knows where the binary is and what it exports.
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { OpenMoeError, type ErrorCode } from './errors.ts'
import type { NativeTokenizerModule } from './tokenizer/native_tokenizer.ts'

declare const kind: unique symbol
export interface NativeDevice {
  readonly [kind]: 'device'
}
export interface NativeBuffer {
  readonly [kind]: 'buffer'
}
export interface NativeProgram {
  readonly [kind]: 'program'
}

export interface OpField {
  name: string
  kind: 'in' | 'out' | 'inout' | 'matrix' | 'panel_in' | 'panel_out' | 'integer' | 'number'
  spec: string
}

export interface NativeMatrixSource {
  file: string
  offset: number
  dtype: number
  rows: number
  cols: number
  rowStride: number
  colStride: number
}

export interface NativeMatrixShape {
  dtype: number
  layout: number
  count: number
  outFeatures: number
  inFeatures: number
}

export interface NativeMatrixTarget extends NativeMatrixShape {
  buffer: NativeBuffer
  index: number
  rowOffset: number
}

/** Where a source goes: into a matrix, or into plain rows of f32 or bf16. */
export type NativeLoadPart = { source: NativeMatrixSource } & (
  { matrix: NativeMatrixTarget } | { rows: { buffer: NativeBuffer; offset: number; dtype: number } }
)

/** What a GPU module found (native/gpu/runtime.h). Versions as CUDA writes them: 13000 is 13.0. */
export interface NativeGpuReport {
  isBuilt: boolean
  /** Why no device can be used; empty when one can. */
  problem: string
  devices: {
    description: string
    capability: number
    numSms: number
    totalBytes: number
    driver: number
    runtime: number
  }[]
}

/** Tensors of a recording, TENSOR_FIELDS each: buffer, offset, bytes, dtype, use, constant (native/binding). */
export type NativeTensorList = (NativeBuffer | number | ArrayBufferView | null)[]
export const TENSOR_FIELDS = 6
export const TENSOR_USE = { input: 1, result: 2 } as const
/** Inputs cross the border as one block, results as another: tensors in order, each at a multiple of this. */
export const BLOCK_ALIGN = 8

interface NativeDeviceModule {
  ops(): { name: string; fields: OpField[] }[]
  cpuInfo(): { modelName: string; defaultThreads: number; isas: string[] }
  openCpu(threads: number, isa?: string): NativeDevice
  openGpu(module: string, index: number, batchInvariant: boolean, seed: number): Promise<NativeDevice>
  describeGpus(module: string): NativeGpuReport
  deviceMemory(device: NativeDevice): { allocatedBytes: number; freeBytes: number; totalBytes: number }
  panelDtype(device: NativeDevice): number
  closeDevice(device: NativeDevice): Promise<void>
  allocate(device: NativeDevice, bytes: number): NativeBuffer
  freeBuffer(device: NativeDevice, buffer: NativeBuffer): void
  matrixBytes(device: NativeDevice, shape: NativeMatrixShape): number
  panelBytes(device: NativeDevice, numRows: number, numExperts: number, features: number): number
  write(device: NativeDevice, buffer: NativeBuffer, offset: number, from: ArrayBufferView): Promise<void>
  read(device: NativeDevice, buffer: NativeBuffer, offset: number, to: ArrayBufferView): Promise<void>
  load(device: NativeDevice, parts: NativeLoadPart[]): Promise<void>
  packMatrix(device: NativeDevice, from: Float32Array, target: NativeMatrixTarget): Promise<void>
  program(
    device: NativeDevice,
    tensors: NativeTensorList,
    code: Float64Array,
    labels: string[],
  ): NativeProgram
  programBytes(program: NativeProgram): number
  freeProgram(program: NativeProgram): void
  run(
    device: NativeDevice,
    program: NativeProgram,
    inputs: ArrayBuffer,
    results: ArrayBuffer,
    flags: number,
  ): Promise<Float64Array | undefined>
}

export type NativeModule = NativeDeviceModule & NativeTokenizerModule

// lib/ and dist/ are both one level below the root.
const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')

function load(): NativeModule {
  const require = createRequire(import.meta.url)
  const tried: string[] = []
  const candidates = process.env.OPENMOE_NATIVE_PATH
    ? [process.env.OPENMOE_NATIVE_PATH]
    : [join(root, 'build', 'native', 'Release', 'openmoe.node')]
  for (const path of candidates) {
    try {
      return require(path) as NativeModule
    } catch (error) {
      tried.push(`  ${path}: ${(error as Error).message.split('\n')[0]}`)
    }
  }
  throw new OpenMoeError(
    'ERR_OPENMOE_NATIVE_NOT_FOUND',
    `The native addon is not built for ${process.platform}-${process.arch}. Tried:\n${tried.join('\n')}\n` +
      `Run: npm run build --prefix ${root} (needs CMake 3.24 and a C++20 compiler; nothing is downloaded)`,
  )
}

let loaded: NativeModule | undefined

/** The addon, loaded on first use so that `import 'openmoe'` never throws. */
export const native: NativeModule = new Proxy({} as NativeModule, {
  get: (_, name): unknown => {
    loaded ??= load()
    return Reflect.get(loaded, name)
  },
})

/** Errors of the addon carry `code`; to the user they are all OpenMoeError. */
export function fromNative(error: unknown): unknown {
  const code = (error as { code?: unknown } | null)?.code
  if (error instanceof OpenMoeError || typeof code !== 'string' || !code.startsWith('ERR_OPENMOE_'))
    return error
  return new OpenMoeError(code as ErrorCode, (error as Error).message, { cause: error })
}

/** Calls into the addon, sync or async, with its errors translated. */
export function callNative<T>(call: () => T): T {
  try {
    const result = call()
    if (!(result instanceof Promise)) return result
    return result.catch((error: unknown) => {
      throw fromNative(error)
    }) as T
  } catch (error) {
    throw fromNative(error)
  }
}
