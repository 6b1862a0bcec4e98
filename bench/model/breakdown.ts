import type { CompiledProgram, Device, Results, RunOptions } from '#lib/device'
import type { Program } from '#lib/program'
import type { Breakdown } from '../report.ts'
import { judge, type RoofSet, type Work } from '../roofline.ts'
import type { TypedShape } from '../shapes.ts'

export type Profile = { label: string; microseconds: number }[]

/** The same device, whose programs report into `profiles` how long each record took. */
export function profiling(device: Device, profiles: Profile[]): Device {
  const compile = <R extends Results>(
    body: (p: Program) => R,
    options?: Pick<RunOptions, 'taps'>,
  ): Pick<CompiledProgram<R>, 'stage' | 'run' | 'dispose'> => {
    const program = device.compile(body, options)
    return {
      async run(inputs) {
        const result = await program.run(inputs, { profile: true })
        profiles.push(result.profile ?? [])
        return result
      },
      stage: () => program.stage(),
      dispose: () => program.dispose(),
    }
  }
  // Tensors belong to the device itself, as its programs do.
  const empty: Device['empty'] = (dtype, shape) => device.empty(dtype, shape)
  const view: Device['view'] = (of, shape) => device.view(of, shape)
  return Object.assign(Object.create(device) as Device, { compile, empty, view })
}

export interface ProfiledStep {
  wallUs: number
  profile: Profile
  work: ReadonlyMap<string, Work>
}

/** The mean of steps that ran one after the other: when each of them ended is known only roughly. */
export function meanStep(steps: readonly ProfiledStep[]): ProfiledStep {
  const mean = (of: (step: ProfiledStep) => number): number =>
    steps.reduce((sum, step) => sum + of(step), 0) / steps.length
  const { profile, work } = steps[0]!
  const workOf = (step: ProfiledStep, part: string): Work => step.work.get(part) ?? { bytes: 0, flops: 0 }
  return {
    wallUs: mean(({ wallUs }) => wallUs),
    profile: profile.map(({ label }, i) => ({
      label,
      microseconds: mean((s) => s.profile[i]!.microseconds),
    })),
    work: new Map(
      [...work.keys()].map((part) => [
        part,
        { bytes: mean((s) => workOf(s, part).bytes), flops: mean((s) => workOf(s, part).flops) },
      ]),
    ),
  }
}

/** Time per part of the network, summed over the layers. */
export function breakDown(
  name: string,
  { name: shape, dtype }: TypedShape,
  { wallUs, profile, work }: ProfiledStep,
  roofs: RoofSet,
): Breakdown {
  const parts = new Map<string, { records: number; us: number }>()
  for (const { label, microseconds } of profile) {
    const part = label.replace(/^layers\.\d+\./, '')
    const { records, us } = parts.get(part) ?? { records: 0, us: 0 }
    parts.set(part, { records: records + 1, us: us + microseconds })
  }
  const kernels = [...parts.values()].reduce((sum, { us }) => sum + us, 0)
  parts.set('(host: record, hop, copies)', { records: 1, us: wallUs - kernels })
  return {
    name,
    shape,
    dtype,
    wallUs,
    parts: [...parts]
      .map(([part, { records, us }]) => {
        const needed = work.get(part)
        const idealUs = needed ? judge(needed, us, dtype, roofs).idealUs : 0
        return { part, records, us, idealUs, fraction: idealUs / us }
      })
      .sort((a, b) => b.us - a.us),
  }
}
