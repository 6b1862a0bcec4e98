import { createRequire } from 'node:module'
import type { Command } from 'commander'
import { type DeviceInfo, devices } from '../../device.ts'
import { type GpuReport, gpuReport } from '../../backends.ts'
import { OpenMoeError } from '../../errors.ts'
import { printJson } from '../output.ts'

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('devices, instruction sets, the backend that would be chosen and why')
    .option('--json', 'print one JSON value')
    .action((options: { json?: boolean }) => {
      const report = diagnose()
      if (options.json) printJson(report)
      else
        for (const [name, value] of Object.entries(report))
          process.stdout.write(`${name.padEnd(18)} ${value}\n`)
    })
}

function diagnose(): Record<string, string> {
  const { version } = createRequire(import.meta.url)('../../../package.json') as { version: string }
  const report = { openmoe: version, node: `${process.version} ${process.platform}-${process.arch}` }
  try {
    const cpu = devices()[0]!
    const gpus = gpuReport('cuda')
    return {
      ...report,
      addon: 'built',
      ...describeCpu(cpu),
      ...describeGpus(gpus),
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

/** One line why there is no GPU, or one per GPU. */
export function describeGpus({ isBuilt, problem, devices }: GpuReport): Record<string, string> {
  const lines: Record<string, string> = {
    'cuda module': isBuilt ? 'built' : `not built: ${problem}`,
    cuda:
      isBuilt && problem ? problem : devices.length > 0 ? `${devices.length} found` : 'no GPU can be used',
  }
  const decimal = (n: number): string => n.toFixed(1)
  const cudaVersion = (n: number): string => `${Math.floor(n / 1000)}.${(n % 1000) / 10}`
  const gib = (bytes: number): string => decimal(bytes / 2 ** 30)
  devices.forEach((gpu, i) => {
    const used = gpu.totalBytes - gpu.freeBytes
    lines[`cuda:${i}`] =
      `${gpu.description}, compute capability ${decimal(gpu.capability / 10)}, ${gpu.numSms} SMs, ` +
      `${gib(gpu.freeBytes)} of ${gib(gpu.totalBytes)} GiB free` +
      (used > gpu.freeBytes ? ' (out of memory errors are likely: other processes use most of it)' : '') +
      `, driver for CUDA ${cudaVersion(gpu.driver)}, built with ${cudaVersion(gpu.runtime)}` +
      (gpu.capability < 80 ? '; too old: the kernels need 8.0 or newer' : '')
  })
  return lines
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
