import { createRequire } from 'node:module'
import type { Command } from 'commander'
import { devices } from '../../device.ts'
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
  const cpu = devices()[0]
  const best = cpu?.isas.at(-1) ?? 'none'
  const forced = process.env.OPENMOE_ISA
  const { version } = createRequire(import.meta.url)('../../../package.json') as { version: string }
  return {
    openmoe: version,
    node: `${process.version} ${process.platform}-${process.arch}`,
    cpu: cpu?.description ?? 'unknown',
    'instruction sets': `${cpu?.isas.join(', ')} (best last)`,
    'isa chosen': forced
      ? `${forced} (OPENMOE_ISA)`
      : `${best} (the best this CPU has; OPENMOE_ISA overrides)`,
    threads: `${cpu?.defaultThreads} (physical cores this process may use; --threads overrides)`,
    cuda: 'not in this build',
    'backend for auto': `cpu ${forced ?? best}: no GPU backend is present`,
  }
}
