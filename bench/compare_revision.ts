// --compare REF: builds another revision beside this one and times both in turn, A B B A ..., in one run.
import { type ChildProcess, execFileSync, fork, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { OpenMoeError } from '#lib/errors'
import { caseGroups } from './case_groups.ts'
import { measurePairs } from './node/node_bench.ts'
import { type BenchOptions, wantsGroup, wantsRow } from './options.ts'
import { type Row, rowLine } from './report.ts'
import type { Answer, Answers, Request } from './revision_protocol.ts'
import type { TypedShape } from './shapes.ts'
import { median } from './statistics.ts'
import type { Suite } from './suite.ts'

// One side of a pair: as many samples as fit, so that a pair is long against what interrupts it.
const SIDE_US = 20_000
const MAX_SAMPLES = 32

export async function compareWithRevision(suite: Suite, options: BenchOptions): Promise<Row[]> {
  const here = checkout()
  const there = mkdtempSync(join(tmpdir(), 'openmoe-compare-'))
  const sides: Side[] = []
  try {
    suite.progress.note(`building ${options.compare} in ${there}`)
    buildRevision(here, there, options.compare!)
    const device = { name: options.device, options: { threads: suite.threads, isa: options.isa } }
    for (const root of [there, here]) {
      const side = new Side(root)
      sides.push(side)
      await side.ask({ ask: 'device', ...device, quick: options.quick })
    }
    const rows: Row[] = []
    for (const shape of options.shapes) {
      for (const dtype of options.dtypes) {
        rows.push(...(await compareShape(suite, { ...shape, dtype }, sides as [Side, Side])))
      }
    }
    return rows
  } finally {
    sides.forEach((side) => side.kill())
    git(here, 'worktree', 'remove', '--force', there)
    rmSync(there, { recursive: true, force: true })
  }
}

async function compareShape(suite: Suite, shape: TypedShape, sides: [Side, Side]): Promise<Row[]> {
  const rows: Row[] = []
  for (const { name: group } of caseGroups().filter(({ name }) => wantsGroup(suite.options, name))) {
    suite.progress.step(`${group} ${shape.name} ${shape.dtype}`)
    try {
      const [before, now] = [await sides[0].open(group, shape), await sides[1].open(group, shape)]
      for (const name of now.filter((row) => before.includes(row) && wantsRow(suite.options, row))) {
        const row = await compareCase(suite, shape, name, sides)
        suite.progress.print(rowLine(row))
        rows.push(row)
      }
      for (const side of sides) await side.ask({ ask: 'close' })
    } catch (error) {
      suite.fail(`${group} ${shape.name} ${shape.dtype}: ${(error as Error).message}`)
    }
  }
  return rows
}

async function compareCase(suite: Suite, shape: TypedShape, name: string, sides: [Side, Side]): Promise<Row> {
  for (const side of sides) await side.ask({ ask: 'prepare', name })
  const [us = 1] = await sides[1].ask({ ask: 'sample', count: 1 })
  const count = Math.max(1, Math.min(MAX_SAMPLES, Math.ceil(SIDE_US / us)))
  const once = (side: Side) => async (): Promise<number> => median(await side.ask({ ask: 'sample', count }))
  const pairs = suite.options.quick ? 2 : suite.options.pairs
  const { b, comparison } = await measurePairs(pairs, once(sides[0]), once(sides[1]))
  const work = await sides[1].ask({ ask: 'work' })
  for (const side of sides) await side.ask({ ask: 'release' })
  return suite.row(name, shape, work, b, { comparison })
}

class Side {
  private readonly child: ChildProcess

  constructor(root: string) {
    this.child = fork(join(root, 'bench', 'revision_worker.ts'), {
      cwd: root,
      execArgv: ['--conditions=openmoe-source', '--import', 'tsx'],
    })
  }

  async ask<R extends Request>(request: R): Promise<Answers[R['ask']]> {
    this.child.send(request)
    const [answer] = (await Promise.race([
      once(this.child, 'message'),
      once(this.child, 'exit').then(([code]) => [{ error: `its process ended with ${code}` }]),
    ])) as [Answer<R['ask']>]
    if ('error' in answer) throw new Error(answer.error)
    return answer.ok
  }

  open(group: string, shape: TypedShape): Promise<string[]> {
    return this.ask({ ask: 'open', group, shape })
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
