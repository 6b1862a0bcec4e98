import { createRequire } from 'node:module'
import type { Command } from 'commander'
import { type DeviceInfo, devices, openDevice } from '../../device.ts'
import { type GpuReport, gpuReport } from '../../backends.ts'
import { OpenMoeError } from '../../errors.ts'
import { printJson } from '../output.ts'

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('devices, instruction sets, the backend that would be chosen and why')
    .option('--json', 'print one JSON value')
    .action(async (options: { json?: boolean }) => {
      const report = await diagnose()
      if (options.json) printJson(report)
      else
        for (const [name, value] of Object.entries(report))
          process.stdout.write(`${name.padEnd(18)} ${value}\n`)
    })
}

async function diagnose(): Promise<Record<string, string>> {
  const { version } = createRequire(import.meta.url)('../../../package.json') as { version: string }
  const report = { openmoe: version, node: `${process.version} ${process.platform}-${process.arch}` }
  try {
    const cpu = devices()[0]!
    const gpus = gpuReport('cuda')
    const memory = await Promise.all(gpus.devices.map((_, i) => askMemory(i)))
    return {
      ...report,
      addon: 'built',
      ...describeCpu(cpu),
      ...describeGpus(gpus, memory),
      ...describeChoice(cpu, gpus),
    }
  } catch (error) {
    if (!(error instanceof OpenMoeError) || error.code !== 'ERR_OPENMOE_NATIVE_NOT_FOUND') throw error
    const remedy = error.message.replace(/\s*\n\s*/g, ' ')
    return { ...report, addon: `not built: ${remedy}`, cuda: 'unknown without the addon' }
  }
}

function describeCpu(cpu: DeviceInfo): Record<string, string> {
  const best = cpu.isas.at(-1) ?? 'none'
  const forced = process.env.OPENMOE_ISA
  return {
    cpu: cpu.description,
    'instruction sets': `${cpu.isas.join(', ')} (best last)`,
    'isa chosen': forced
      ? `${forced} (OPENMOE_ISA)`
      : `${best} (the best this CPU has; OPENMOE_ISA overrides)`,
    threads: `${cpu.defaultThreads} (physical cores this process may use; --threads overrides)`,
  }
}

/** Free bytes of a GPU, which only an open device knows, or why it does not open. */
async function askMemory(index: number): Promise<number | string> {
  try {
    const device = await openDevice(`cuda:${index}`)
    const { freeBytes } = device.memory()
    await device.dispose()
    return freeBytes
  } catch (error) {
    return (error as Error).message
  }
}

/** One line why there is no GPU, or one per GPU. */
export function describeGpus(
  { isBuilt, problem, devices }: GpuReport,
  memory: readonly (number | string)[],
): Record<string, string> {
  const lines: Record<string, string> = {
    'cuda module': isBuilt ? 'built' : `not built: ${problem}`,
    cuda:
      isBuilt && problem ? problem : devices.length > 0 ? `${devices.length} found` : 'no GPU can be used',
  }
  const cudaVersion = (n: number): string => `${Math.floor(n / 1000)}.${(n % 1000) / 10}`
  devices.forEach((gpu, i) => {
    lines[`cuda:${i}`] =
      `${gpu.description}, compute capability ${(gpu.capability / 10).toFixed(1)}, ${gpu.numSms} SMs, ` +
      `driver for CUDA ${cudaVersion(gpu.driver)}, built with ${cudaVersion(gpu.runtime)}; ` +
      describeMemory(gpu.totalBytes, memory[i] ?? 'not asked')
  })
  return lines
}

function describeMemory(total: number, free: number | string): string {
  if (typeof free === 'string') return `cannot be used: ${free}`
  const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(1)
  const crowded = free < total / 2 ? '; out of memory errors are likely: other processes use most of it' : ''
  return `${gib(free)} of ${gib(total)} GiB free${crowded}`
}

/** 'auto' as `loadModel` and as `openDevice` mean it. */
function describeChoice(cpu: DeviceInfo, { problem, devices }: GpuReport): Record<string, string> {
  const isa = process.env.OPENMOE_ISA ?? cpu.isas.at(-1) ?? 'none'
  const usable = devices.findIndex(({ capability }) => capability >= 80)
  const why = usable < 0 ? `no GPU can be used${problem ? ', see cuda' : ''}` : undefined
  return {
    'backend for auto': `cpu ${isa}: ${why ?? 'only the ops of the MoE layer run on a GPU yet, not a whole model'}`,
    'device for ops': usable < 0 ? `cpu ${isa}: ${why}` : `cuda:${usable}`,
  }
}
