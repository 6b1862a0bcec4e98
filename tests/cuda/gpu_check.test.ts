// npm run gpu:check where there is no GPU: what it skips it says, what it finds wrong it says too, and nothing stops it.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { stagesFor } from '../../scripts/gpu-check/list.mjs'
import { exitCodeOf, runStages, toMarkdown } from '../../scripts/gpu-check/stages.mjs'
import { describeHost } from '../../scripts/gpu-check/host.mjs'
import { tempFolder } from '../support/temp_folder.ts'
import { runProgram } from './gpu_program.ts'

const { folder } = tempFolder()
const ROOT = join(import.meta.dirname, '../..')
const GPU_KERNELS = [
  ...['moe_router', 'moe_gating', 'moe_routing', 'moe_permute', 'moe_unpermute'],
  ...['grouped_gemm', 'grouped_gemm_swiglu'],
].map((op) => `native/ops/${op}.cu`)

interface Stage {
  name: string
  status: string
  summary?: string
  seconds?: number
  tail?: string
}

function gpuCheck(...args: string[]) {
  const out = folder()
  const run = spawnSync(process.execPath, ['scripts/gpu-check.mjs', '--out', out, ...args], {
    cwd: ROOT,
    encoding: 'utf8',
  })
  const report = existsSync(join(out, 'report.json'))
    ? (JSON.parse(readFileSync(join(out, 'report.json'), 'utf8')) as {
        schema: number
        verdict: string
        stages: Stage[]
      })
    : undefined
  return { ...run, out, report }
}

describe('gpu:check without a GPU', () => {
  const { noDevice } = describeHost()
  if (!noDevice) {
    it.skip('skipped: this machine has a GPU, where the rehearsal would be the real thing', () => undefined)
    return
  }

  it('checks nothing, says so stage by stage, and ends in an exit code of its own', () => {
    const { status, stdout, report, out } = gpuCheck()
    expect(status).toBe(77)
    expect(report).toMatchObject({ schema: 1, verdict: 'nothing was checked' })
    const names = report!.stages.map(({ name }) => name)
    expect(names).toEqual(
      expect.arrayContaining([
        'conformance',
        'ops',
        'golden',
        'memcheck',
        'racecheck',
        'initcheck',
        'synccheck',
      ]),
    )
    expect(names.slice(-3)).toEqual(['bench-34b', 'node', 'peers'])
    for (const { name, status, summary } of report!.stages) {
      expect({ name, status, summary }).toEqual({ name, status: 'skipped', summary: noDevice })
      expect(stdout).toContain(`${name}: skipped, ${noDevice}`)
      expect(readFileSync(join(out, 'report.md'), 'utf8')).toContain(`| ${name} |`)
    }
  })

  it('takes at most nine minutes, whatever hangs', () => {
    const context = { out: '', emulated: false, program: () => undefined, findTool: () => undefined }
    const seconds = stagesFor(context).map((stage: { seconds: number }) => stage.seconds)
    expect(seconds.reduce((sum: number, one: number) => sum + one)).toBeLessThanOrEqual(540)
  })

  it('refuses a stage it does not have', () => {
    const { status, stderr } = gpuCheck('--only', 'conformance,spelling')
    expect(status).toBe(2)
    expect(stderr).toContain('no stage spelling; it has build, conformance')
  })
})

describe('stages', () => {
  const stage = (name: string, script: string, more = {}) => ({
    name,
    about: 'a test',
    seconds: 20,
    command: () => [process.execPath, '-e', script],
    ...more,
  })
  const runAll = async (stages: object[]) => {
    const out = folder()
    const lines: string[] = []
    const results = (await runStages(stages, { root: out, out }, (line: string) =>
      lines.push(line),
    )) as Stage[]
    return { results, lines, log: readFileSync(join(out, 'log.txt'), 'utf8') }
  }

  it('run on after one that failed, hung, cannot start or broke', async () => {
    const { results, log } = await runAll([
      stage('fails', 'console.log("first"); console.error("wrong sum"); process.exitCode = 3'),
      stage('hangs', 'console.log("waiting"); setInterval(() => {}, 1000)', { seconds: 1 }),
      stage('is absent', '', { command: () => ['/no/such/program'] }),
      stage('breaks', '', { command: () => JSON.parse('{') as string[] }),
      stage('has no GPU', '', { why: () => 'no GPU' }),
      stage('finds none itself', 'console.log("no device: none"); process.exitCode = 77'),
      stage('passes', 'console.log("fine")'),
    ])
    const outcome = Object.fromEntries(results.map(({ name, status, summary }) => [name, [status, summary]]))
    expect(outcome).toEqual({
      fails: ['failed', 'wrong sum'],
      hangs: ['timed out', 'after 1 s'],
      'is absent': ['failed', expect.stringContaining('ENOENT')],
      breaks: ['failed', expect.stringContaining('the stage itself broke')],
      'has no GPU': ['skipped', 'no GPU'],
      'finds none itself': ['skipped', 'no device: none'],
      passes: ['passed', undefined],
    })
    expect(results[0]).toMatchObject({ exitCode: 3, tail: expect.stringContaining('wrong sum') as string })
    expect(log).toContain('==== passes')
    expect(exitCodeOf(results)).toBe(1)
  })

  it('pass when all that ran passed, and count for nothing when none checked anything', async () => {
    const build = stage('build', '', { checks: false })
    const skipped = stage('skipped', '', { why: () => 'why not' })
    expect(exitCodeOf((await runAll([build, skipped])).results)).toBe(77)
    expect(exitCodeOf((await runAll([build, skipped, stage('ops', '')])).results)).toBe(0)
  })

  it('end what they started when their time is over', async () => {
    const grandchild =
      'require("child_process").spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"])'
    const pid = `const c = ${grandchild}; console.log("pid " + c.pid); setInterval(() => {}, 1000)`
    const { log } = await runAll([stage('hangs', pid, { seconds: 1 })])
    const started = Number(/pid (\d+)/.exec(log)![1])
    await expect.poll(() => existsSync(`/proc/${started}/fd`) && isRunning(started)).toBe(false)
  })

  it('become a table in which a bar of a message breaks nothing', () => {
    const table = toMarkdown(
      {
        host: { commit: 'abc' },
        verdict: 'failed',
        date: '',
        command: '',
        emulated: true,
        stages: [{ name: 'a', summary: 'x|y' }],
      },
      '/out',
    )
    expect(table).toContain('x\\|y')
  })
})

function isRunning(pid: number): boolean {
  const state = /^State:\s+(\w)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  return state !== 'Z'
}

describe('the programs of gpu:check on the emulated GPU', () => {
  it('agree with the PTX manual in every wrapper', { timeout: 180_000 }, async () => {
    const { ok, output } = await runProgram({ test: 'gpu_conformance_test', kernels: [] })
    expect(output).not.toContain('WRONG')
    expect(output.match(/^ok {5}/gm)!.length).toBeGreaterThan(70)
    expect(ok).toBe(true)
  })

  it.each(['90', '80'])(
    'time the layer only after it was right, kernels of sm_%s',
    { timeout: 180_000 },
    async (arch) => {
      const json = join(folder(), 'bench.json')
      const { ok, output } = await runProgram(
        { test: 'bench/gpu/moe_bench', kernels: [...GPU_KERNELS, 'native/gpu/pack_weights.cu'] },
        ['--shape', 'tiny', '--tokens', '1,16', '--arch', arch, '--matmul-roof', '1e9', '--json', json],
      )
      expect({ ok, output }).toEqual({ ok: true, output: expect.not.stringContaining('WRONG') as string })
      const { schema, results, roofs } = JSON.parse(readFileSync(json, 'utf8')) as {
        schema: number
        roofs: Record<string, number>
        results: Record<string, number | string>[]
      }
      expect(schema).toBe(1)
      expect(roofs).toMatchObject({ matmul: 1e9 })
      expect(results).toHaveLength(2 * 3 * 7) // tokens, routings, the layer and its kernels
      expect(results[0]).toMatchObject({
        name: 'moe_layer',
        tokens: 1,
        routing: 'uniform',
        distinctExperts: 2,
      })
      for (const row of results) expect(Number(row.medianUs)).toBeGreaterThan(0)
    },
  )

  it(
    'draw the same random numbers and routes as the peers, in C++ and in Python',
    { timeout: 180_000 },
    async (t) => {
      const python = spawnSync('python3', ['-B', 'bench/peers/moe_inputs.py'], {
        cwd: ROOT,
        encoding: 'utf8',
      })
      if (python.error) return t.skip('python3 is not on PATH')
      const { output } = await runProgram(
        { test: 'bench/gpu/moe_bench', kernels: [...GPU_KERNELS, 'native/gpu/pack_weights.cu'] },
        ['--print-random'],
      )
      expect(output).toBe(python.stdout)
      expect(output.split('\n').length).toBeGreaterThan(15)
    },
  )
})

describe('the peers', () => {
  it('are skipped, with the reason, where torch or its GPU is missing', (t) => {
    const run = spawnSync('python3', ['-B', 'bench/peers/moe_peers.py'], { cwd: ROOT, encoding: 'utf8' })
    if (run.error) return t.skip('python3 is not on PATH')
    if (!describeHost().noDevice) return t.skip('this machine has a GPU')
    expect(run.status).toBe(77)
    expect(run.stdout).toMatch(/has no torch|has no triton|torch sees no GPU/)
  })

  it("compute the layer right, their kernels in Triton's interpreter", { timeout: 180_000 }, (t) => {
    const probe = spawnSync('python3', ['-c', 'import torch, triton'], { encoding: 'utf8' })
    if (probe.status !== 0) return t.skip('python3 has no torch and Triton')
    const args = ['-B', 'bench/peers/moe_peers.py', '--interpret']
    const { status, stdout } = spawnSync('python3', args, { cwd: ROOT, encoding: 'utf8' })
    expect({ status, stdout }).toEqual({ status: 0, stdout: expect.stringContaining('triton') as string })
  })

  it('are compared with our time in a table', (t) => {
    const script = `
import sys; sys.path.insert(0, 'bench/peers')
from moe_inputs import ratio_table
ours = [{'name': 'moe_layer', 'routing': 'uniform', 'tokens': 4, 'medianUs': 200.0},
        {'name': 'moe_router', 'routing': 'uniform', 'tokens': 4, 'medianUs': 3.0}]
peers = [{'backend': 'triton', 'name': 'moe_layer', 'routing': 'uniform', 'tokens': 4, 'medianUs': 300.0},
         {'backend': 'dense_mm', 'name': 'grouped_gemm', 'routing': 'uniform', 'tokens': 4, 'medianUs': 1.0}]
print('\\n'.join(ratio_table(ours, peers)))`
    const run = spawnSync('python3', ['-B', '-c', script], { cwd: ROOT, encoding: 'utf8' })
    if (run.error) return t.skip('python3 is not on PATH')
    const [head, ...rows] = run.stdout.trim().split('\n')
    expect(head).toMatch(/kernel +routing +tokens +ours us +dense_mm +triton/)
    expect(rows).toHaveLength(1) // nobody else has a router
    expect(rows[0]).toMatch(/^moe_layer +uniform +4 +200.0 +- +1.50 x$/)
  })
})
