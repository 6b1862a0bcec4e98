// The stages of gpu:check, and the seconds each may take: 540 together.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { lastLine } from './stages.mjs'

const SANITIZERS = { memcheck: 40, racecheck: 40, initcheck: 30, synccheck: 20 }
const PROGRAMS = ['gpu_conformance', 'moe_bench']

export function stagesFor(context) {
  const { out, emulated } = context
  const program = (name) => context.program(name) ?? name
  const needs = (name) => () =>
    context.noDevice ??
    (context.program(name) ? undefined : `${name} is not built (npm run gpu:check -- --build)`)
  const python = () => context.findTool('python3')
  const bench =
    (shape, seconds, extra = []) =>
    () => [
      program('moe_bench'),
      ...['--shape', shape, '--seconds', String(seconds), '--json', join(out, `bench-${shape}.json`)],
      ...matmulRoof(out),
      ...extra,
    ]
  const shapes = emulated ? { first: 'tiny', tokens: ['--tokens', '1,4,16'] } : { first: '8b', tokens: [] }
  return [
    {
      name: 'build',
      about: 'the programs below, where there is a build tree',
      checks: false,
      seconds: 100,
      why: () => whyNotBuild(context),
      command: () => buildCommand(context),
    },
    {
      name: 'conformance',
      about: 'every wrapper of gpu/gpu.h against the PTX manual',
      seconds: 20,
      why: needs('gpu_conformance'),
      command: () => [program('gpu_conformance')],
      judge: conformance,
    },
    vitest(context, 'ops', 'the tests of every op', 50, ['tests/ops']),
    vitest(context, 'golden', 'MoE layers of the golden cases', 30, ['tests/layers']),
    ...['90', '80'].map((arch) => ({
      name: `layer-sm_${arch}`,
      about: 'a small MoE layer against f64, with the kernels of that architecture',
      seconds: 10,
      why: needs('moe_bench'),
      command: () => [program('moe_bench'), ...smallLayer(emulated ? '1,16' : '1,16,64,300,1000', arch)],
    })),
    ...Object.entries(SANITIZERS).map(([tool, seconds]) => sanitizer(context, tool, seconds, needs)),
    {
      name: 'matmul',
      about: 'the roof of bf16 products: 8192 x 8192 x 8192 through torch',
      checks: false,
      seconds: 25,
      why: () => context.noDevice ?? whyNoTorch(context, python()),
      command: () => [python(), 'bench/peers/moe_peers.py', '--matmul', join(out, 'matmul.json')],
    },
    {
      name: 'bench',
      about: 'time of the MoE layer and each of its kernels',
      seconds: 70,
      why: needs('moe_bench'),
      command: bench(shapes.first, 45, shapes.tokens),
      judge: benchmark,
    },
    {
      name: 'bench-34b',
      about: 'the same at the size of the 34B model',
      seconds: 25,
      why: () => (emulated ? 'too large for the emulator' : needs('moe_bench')()),
      command: bench('34b', 15, ['--tokens', '1,64,1024,4096']),
      judge: benchmark,
    },
    {
      name: 'node',
      about: 'what a layer costs from Node, over the time of its kernels',
      seconds: 20,
      why: () => context.noDevice,
      command: () => [
        process.execPath,
        ...['--import', 'tsx', '--conditions=openmoe-source', 'bench/gpu/node_layer.ts'],
        ...(emulated ? ['cuda-emulator:0', 'tiny'] : ['cuda', '8b']),
        join(out, 'node.json'),
      ],
    },
    {
      name: 'peers',
      about: 'torch and Triton on the same weights and routes',
      seconds: 50,
      why: () => context.noDevice ?? whyNoTorch(context, python()),
      command: () => [
        python(),
        'bench/peers/moe_peers.py',
        ...[
          '--seconds',
          '60',
          '--ours',
          join(out, `bench-${shapes.first}.json`),
          '--json',
          join(out, 'peers.json'),
        ],
      ],
      judge: ratios,
    },
  ]
}

const smallLayer = (tokens, arch) => ['--shape', 'tiny', '--tokens', tokens, '--arch', arch, '--check-only']

/** Prebuilt programs that travelled here come without the build tree that made them. */
function whyNotBuild({ buildFolder, noDevice }) {
  if (noDevice) return noDevice
  if (!existsSync(join(buildFolder, 'CMakeCache.txt')))
    return 'there is no build tree in build/native: the programs that are there are used (npm run build makes one)'
  if (!existsSync(join(buildFolder, 'CMakeFiles')))
    return 'the build tree travelled without its parts: the programs that are there are used'
  return undefined
}

function buildCommand({ buildFolder, emulated }) {
  const targets = emulated
    ? [...PROGRAMS.map((name) => `${name}_emulated`), 'openmoe_cuda_emulator']
    : [...PROGRAMS, 'openmoe_cuda', 'openmoe_cuda_emulator']
  return ['cmake', '--build', buildFolder, '--parallel', '--target', ...targets]
}

function conformance({ code, output }) {
  const count = (word) => output.split('\n').filter((line) => line.startsWith(word)).length
  const summary = `${count('ok     ')} agree, ${count('WRONG')} do not, ${count('skip')} skipped`
  return { status: code === 0 ? 'passed' : 'failed', summary: code === null ? lastLine(output) : summary }
}

/** Tests of one backend: `<op> on cuda ...`. A run in which every test was skipped has checked nothing. */
function vitest({ emulated, noDevice, out }, name, about, seconds, folders) {
  const file = join(out, `.${name}-tests.json`)
  const pattern = emulated ? "(^| )on '?cuda-emulator:0" : "(^| )on '?cuda(?!-)"
  return {
    name,
    about,
    seconds,
    why: () => noDevice,
    command: () => [
      process.execPath,
      ...['node_modules/vitest/vitest.mjs', 'run', ...folders, '-t', pattern],
      ...['--reporter=default', '--reporter=json', `--outputFile.json=${file}`],
    ],
    judge: ({ code, output }) => {
      const tests = JSON.parse(readFileSync(file, 'utf8')).testResults.flatMap((one) => one.assertionResults)
      const count = (status) => tests.filter((test) => test.status === status).length
      const summary = `${count('passed')} tests passed, ${count('failed')} failed`
      if (code !== 0) return { status: 'failed', summary: count('failed') > 0 ? summary : lastLine(output) }
      return count('passed') > 0
        ? { status: 'passed', summary }
        : {
            status: 'failed',
            summary: 'every test was skipped, though there is a device: see npm run doctor',
          }
    },
  }
}

function sanitizer(context, tool, seconds, needs) {
  const path = () => context.findTool('compute-sanitizer')
  return {
    name: tool,
    about: `compute-sanitizer's ${tool} on a small MoE layer`,
    seconds,
    why: () => {
      if (context.emulated) return 'a tool for real devices; the emulator has rules of its own'
      return (
        needs('moe_bench')() ??
        (path() ? undefined : 'compute-sanitizer is neither on PATH nor in /usr/local/cuda*/bin')
      )
    },
    command: () => [
      path(),
      ...['--tool', tool, '--error-exitcode', '9', '--print-limit', '20'],
      ...[context.program('moe_bench'), ...smallLayer('1,40,300', '90')],
    ],
    judge: ({ code, output }) => {
      const summary = output.match(/ERROR SUMMARY: .*|RACECHECK SUMMARY: .*/)?.[0] ?? lastLine(output)
      return { status: code === 0 ? 'passed' : 'failed', summary }
    },
  }
}

function whyNoTorch({ emulated }, python) {
  if (emulated) return 'peers need a real device'
  return python ? undefined : 'python3 is not on PATH'
}

function matmulRoof(out) {
  const file = join(out, 'matmul.json')
  if (!existsSync(file)) return []
  return ['--matmul-roof', String(JSON.parse(readFileSync(file, 'utf8')).flopsPerSecond)]
}

function benchmark({ code, output }) {
  const lines = output.split('\n').filter((line) => / us \(p10 |^WRONG|matmul [\dn]/.test(line))
  const wrong = lines.find((line) => line.startsWith('WRONG'))
  const rows = lines.filter((line) => line.includes(' us (p10 ')).length
  const status = code === 0 && !wrong ? 'passed' : 'failed'
  return { status, summary: wrong ?? `${rows} timings`, table: lines.join('\n') }
}

/** The ratios stand last, under a line of their columns. */
function ratios({ code, output }) {
  const from = output.lastIndexOf('kernel  ')
  const status = code === 0 ? 'passed' : 'failed'
  return from < 0 ? { status, summary: lastLine(output) } : { status, table: output.slice(from).trimEnd() }
}
