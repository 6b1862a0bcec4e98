// One side of a paired comparison: a process with the library and the addon of one revision, which samples when told to.
import { openDevice } from '#lib/device'
import { caseGroups } from './case_groups.ts'
import { type BenchCase, Lab, type OpenGroup } from './cases.ts'
import type { Answers, Request } from './revision_protocol.ts'
import type { Sampler } from './sampling.ts'

let lab: Lab
let group: OpenGroup
let current: BenchCase
let sampler: Sampler

async function answer(request: Request): Promise<Answers[keyof Answers]> {
  switch (request.ask) {
    case 'device': {
      const { options, quick } = request
      lab = new Lab(await openDevice(request.name, options), { threads: options.threads, quick })
      return null
    }
    case 'open': {
      const found = caseGroups().find(({ name }) => name === request.group)
      if (!found) throw new Error(`this revision has no ${request.group}`)
      group = await found.open(lab, request.shape)
      return group.cases.map(({ name }) => name)
    }
    case 'prepare':
      current = group.cases.find(({ name }) => name === request.name)!
      sampler = await current.prepare()
      return null
    case 'sample': {
      const samples: number[] = []
      while (samples.length < request.count) samples.push(await sampler.sample())
      return samples
    }
    case 'work':
      return current.work()
    case 'release':
      sampler.dispose()
      return null
    case 'close':
      group.close()
      return null
  }
}

process.on('message', (request: Request) => {
  answer(request).then(
    (ok) => process.send!({ ok }),
    (error: unknown) => process.send!({ error: (error as Error).message }),
  )
})
