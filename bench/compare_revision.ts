// --compare REF: builds another revision beside this one and times both in turn, A B B A ..., in one run.
import { type ChildProcess, execFileSync, fork, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { OpenMoeError } from '#lib/errors'
import { caseGroups } from './case_groups.ts'
import { measurePairs, timingOf } from './node/node_bench.ts'
import { type BenchOptions, wantsGroup, wantsRow } from './options.ts'
import { type Row, rowLine } from './report.ts'
import type { Answer, Answers, Request } from './revision_protocol.ts'
import type { Work } from './roofline.ts'
import type { TypedShape } from './shapes.ts'
import { comparePairs, median, type Pair } from './statistics.ts'
import type { Suite } from './suite.ts'

// Where a process finds its memory and code can cost some percent for as long as it lives: a third of the pairs each.
const PROCESSES = 3
// One side of a pair: as many samples as fit, so that a pair is long against what interrupts it.
const SIDE_US = 20_000
const MAX_SAMPLES = 32

export async function compareWithRevision(suite: Suite, options: BenchOptions): Promise<Row[]> {
  const here = checkout()
  const there = mkdtempSync(join(tmpdir(), 'openmoe-compare-'))
  try {
    suite.progress.note(`building ${options.compare} in ${there}`)
    buildRevision(here, there, options.compare!)
    const found = new Map<string, Found>()
    for (let i = 0; i < PROCESSES; i++) await measureOnce(suite, [there, here], found)
    const rows = [...found.values()].map(({ name, shape, pairs, work }) => {
      const timing = timingOf(pairs.map(([, us]) => us))
      return suite.row(name, shape, work, timing, { comparison: comparePairs(pairs) })
    })
    rows.forEach((row) => suite.progress.print(rowLine(row)))
    return rows
  } finally {
    git(here, 'worktree', 'remove', '--force', there)
    rmSync(there, { recursive: true, force: true })
  }
}

/** Pairs of one row, from all processes. */
interface Found {
  name: string
  shape: TypedShape
  work: Work
  pairs: Pair[]
}

/** A share of the pairs of every row, in two fresh processes. */
async function measureOnce(
  suite: Suite,
  roots: readonly [string, string],
  found: Map<string, Found>,
): Promise<void> {
  const { options, threads } = suite
  const sides = [new Side(roots[0]), new Side(roots[1])] as const
  try {
    for (const side of sides) {
      const device = { name: options.device, options: { threads, isa: options.isa }, quick: options.quick }
      await side.ask({ ask: 'device', ...device })
    }
    for (const shape of options.shapes) {
      for (const dtype of options.dtypes) {
        for (const { name } of caseGroups().filter((group) => wantsGroup(options, group.name))) {
          suite.progress.step(`${name} ${shape.name} ${dtype}`)
          await measureGroup(suite, name, { ...shape, dtype }, sides, found).catch((error: unknown) =>
            suite.fail(`${name} ${shape.name} ${dtype}: ${(error as Error).message}`),
          )
        }
      }
    }
  } finally {
    for (const side of sides) side.kill()
  }
}

async function measureGroup(
  suite: Suite,
  group: string,
  shape: TypedShape,
  sides: readonly [Side, Side],
  found: Map<string, Found>,
): Promise<void> {
  const [before, now] = [
    await sides[0].ask({ ask: 'open', group, shape }),
    await sides[1].ask({ ask: 'open', group, shape }),
  ]
  for (const name of now.filter((row) => before.includes(row) && wantsRow(suite.options, row))) {
    const key = `${name} ${shape.name} ${shape.dtype}`
    const { pairs, work } = await measureCase(suite, name, sides)
    const earlier = found.get(key)
    found.set(key, { name, shape, work, pairs: [...(earlier?.pairs ?? []), ...pairs] })
  }
  for (const side of sides) await side.ask({ ask: 'close' })
}

async function measureCase(
  suite: Suite,
  name: string,
  sides: readonly [Side, Side],
): Promise<Pick<Found, 'pairs' | 'work'>> {
  for (const side of sides) await side.ask({ ask: 'prepare', name })
  const [us = 1] = await sides[1].ask({ ask: 'sample', count: 1 })
  const count = Math.max(1, Math.min(MAX_SAMPLES, Math.ceil(SIDE_US / us)))
  const once = (side: Side) => async (): Promise<number> => median(await side.ask({ ask: 'sample', count }))
  const share = suite.options.quick ? 1 : Math.ceil(suite.options.pairs / PROCESSES)
  const { pairs } = await measurePairs(share, once(sides[0]), once(sides[1]))
  const work = await sides[1].ask({ ask: 'work' })
  for (const side of sides) await side.ask({ ask: 'release' })
  return { pairs, work }
}

class Side {
  private readonly child: ChildProcess
  private settle: (answer: Answer) => void = () => undefined

  constructor(root: string) {
    this.child = fork(join(root, 'bench', 'revision_worker.ts'), {
      cwd: root,
      execArgv: ['--conditions=openmoe-source', '--import', 'tsx'],
    })
    this.child.on('message', (answer: Answer) => this.settle(answer))
    this.child.on('exit', (code) => this.settle({ error: `its process ended with ${code}` }))
  }

  async ask<R extends Request>(request: R): Promise<Answers[R['ask']]> {
    const answer = await new Promise<Answer>((resolve) => {
      this.settle = resolve
      this.child.send(request, (error) => error && resolve({ error: error.message }))
    })
    if ('error' in answer) throw new Error(answer.error)
    return answer.ok as Answers[R['ask']]
  }

  kill(): void {
    this.child.kill()
  }
}

/** The root of the checkout this runs in. */
function checkout(): string {
  const root = resolve(fileURLToPath(new URL('..', import.meta.url)))
  if (existsSync(join(root, 'bench', 'revision_worker.ts')) && existsSync(join(root, '.git'))) return root
  throw new OpenMoeError(
    'ERR_OPENMOE_INVALID_ARG',
    '--compare: there is no such file, and a git revision can only be built in a checkout of the repository, ' +
      'with npm run bench. Compare with a report instead.',
  )
}

/** The benches are this revision's on both sides: what differs is the library and the addon, not how they are timed. */
function buildRevision(here: string, there: string, ref: string): void {
  git(here, 'worktree', 'add', '--detach', there, ref)
  rmSync(join(there, 'bench'), { recursive: true, force: true })
  cpSync(join(here, 'bench'), join(there, 'bench'), { recursive: true })
  cpSync(join(here, 'package.json'), join(there, 'package.json'))
  symlinkSync(join(here, 'node_modules'), join(there, 'node_modules'))
  const built = spawnSync(process.execPath, [join('scripts', 'build-native.mjs')], {
    cwd: there,
    stdio: ['ignore', 'ignore', 'pipe'],
    encoding: 'utf8',
    maxBuffer: 1 << 28, // a compiler has much to say
  })
  if (built.status !== 0) {
    const lines = built.stderr.trim().split('\n').slice(-5).join('\n')
    throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `--compare: ${ref} does not build:\n${lines}`)
  }
}

function git(root: string, ...args: string[]): void {
  try {
    execFileSync('git', args, { cwd: root, stdio: ['ignore', 'ignore', 'pipe'], encoding: 'utf8' })
  } catch (cause) {
    const reason = String((cause as { stderr?: unknown }).stderr ?? cause)
      .trim()
      .split('\n')
      .at(-1)
    throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `--compare: git ${args[0]}: ${reason}`, { cause })
  }
}
