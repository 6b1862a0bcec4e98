import type { CompiledProgram, Device, Results, RunOptions } from '../../lib/device.ts'
import type { Program } from '../../lib/program.ts'
import type { BenchContext, WeightDtype, Work } from '../context.ts'
import type { Breakdown } from '../report.ts'
import { judge } from '../roofline.ts'
import { quantile } from '../sampling.ts'

export type Profile = { label: string; microseconds: number }[]

/** The same device, whose programs report into `profiles` how long each record took. */
export function profiling(device: Device, profiles: Profile[]): Device {
  const compile = <R extends Results>(
    body: (p: Program) => R,
    options?: Pick<RunOptions, 'taps'>,
  ): Pick<CompiledProgram<R>, 'run' | 'dispose'> => {
    const program = device.compile(body, options)
    return {
      async run(inputs) {
        const result = await program.run(inputs, { profile: true })
        profiles.push(result.profile ?? [])
        return result
      },
      dispose: () => program.dispose(),
    }
  }
  return Object.assign(Object.create(device) as Device, { compile })
}

/** Time per part of the network: the median of each record over the profiled steps, summed over the layers. */
export function breakDown(
  context: BenchContext,
  step: { name: string; dtype: WeightDtype; wallUs: number },
  profiles: readonly Profile[],
  work: ReadonlyMap<string, Work>,
): Breakdown {
  const parts = new Map<string, { records: number; us: number }>()
  profiles[0]?.forEach(({ label }, i) => {
    const sorted = profiles.map((profile) => profile[i]!.microseconds).sort((a, b) => a - b)
    const part = label.replace(/^layers\.\d+\./, '')
    const { records, us } = parts.get(part) ?? { records: 0, us: 0 }
    parts.set(part, { records: records + 1, us: us + quantile(sorted, 0.5) })
  })
  const kernels = [...parts.values()].reduce((sum, { us }) => sum + us, 0)
  parts.set('(host: record, hop, copies)', { records: 1, us: Math.max(0, step.wallUs - kernels) })
  return {
    ...step,
    shape: context.shape,
    parts: [...parts]
      .map(([part, { records, us }]) => {
        const { fraction } = judge(work.get(part) ?? { bytes: 0, flops: 0 }, us, step.dtype, context.roofs)
        return { part, records, us, idealUs: fraction * us, fraction }
      })
      .sort((a, b) => b.us - a.us),
  }
}
