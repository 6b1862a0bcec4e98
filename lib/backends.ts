// Which devices there are, what their names mean, and opening the native side of one.
import { OpenMoeError } from './errors.ts'
import { callNative, native, type NativeDevice, type NativeGpuReport } from './native.ts'

export type { NativeGpuReport as GpuReport } from './native.ts'

export interface DeviceOptions {
  /** Compute threads of the CPU; default: the physical cores this process may use. */
  threads?: number
  /** Instruction set of the CPU backend; default: OPENMOE_ISA, else the best this CPU has. */
  isa?: 'portable' | 'avx2' | 'avx512' | 'avx512_bf16'
  /** On a GPU: a row's bits depend on no other row. Slower up to 64 tokens; the CPU is always so. */
  batchInvariant?: boolean
  /** Of the schedules of 'cuda-emulator', on which no result depends. */
  emulatorSeed?: number
}

export interface DeviceInfo {
  /** What openDevice() takes: 'cpu', 'cuda:0' ... */
  name: string
  /** The CPU's or GPU's own name */
  description: string
  /** Instruction sets this CPU can run, worst first; none of a GPU. */
  isas: string[]
  defaultThreads: number
  /** Of a GPU: all its memory. What is free, an open device says: `device.memory()`. */
  totalBytes?: number
  /** Of a GPU: 90 for compute capability 9.0. */
  capability?: number
}

/** The devices this process can open, in the order in which 'auto' would not: the CPU first. */
export function devices(): DeviceInfo[] {
  const cpu = callNative(() => native.cpuInfo())
  const found: DeviceInfo[] = [
    { name: 'cpu', description: cpu.modelName, isas: cpu.isas, defaultThreads: cpu.defaultThreads },
  ]
  gpuReport('cuda').devices.forEach(({ description, capability, totalBytes }, i) => {
    if (capability < LEAST_CAPABILITY) return
    found.push({ name: `cuda:${i}`, description, isas: [], defaultThreads: 0, totalBytes, capability })
  })
  return found
}

const LEAST_CAPABILITY = 80 // native/device/gpu_module.cpp refuses less, and says why

/** What a GPU module says: its devices, or why there are none. 'cuda-emulator' is the test back end. */
export const gpuReport = (module: 'cuda' | 'cuda-emulator'): NativeGpuReport =>
  callNative(() => native.describeGpus(module))

/** `auto` is the first GPU when there is one, else the CPU. The name returned is that of one device. */
export async function openBackend(
  name: string,
  options: DeviceOptions,
): Promise<{ name: string; handle: NativeDevice }> {
  const gpu = /^(cuda|cuda-emulator)(?::(\d{1,4}))?$/.exec(name === 'auto' ? autoDevice() : name)
  if (gpu) {
    const [, module = '', index = '0'] = gpu
    const { batchInvariant = false, emulatorSeed = 1 } = options
    const handle = await callNative(() => native.openGpu(module, Number(index), batchInvariant, emulatorSeed))
    return { name: `${module}:${index}`, handle }
  }
  if (name !== 'auto' && name !== 'cpu') {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      `device: '${name}' is unknown. Use 'auto', 'cpu', 'cuda' or 'cuda:N'.`,
    )
  }
  const isa = options.isa ?? process.env.OPENMOE_ISA
  return { name: 'cpu', handle: callNative(() => native.openCpu(options.threads ?? 0, isa)) }
}

const autoDevice = (): string => devices().find(({ name }) => name !== 'cpu')?.name ?? 'cpu'
