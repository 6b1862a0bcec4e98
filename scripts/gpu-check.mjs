// Everything that only a GPU can tell, in one unattended run of at most nine minutes without a network: conformance of
// the wrappers, the op tests, golden layers, compute-sanitizer, benchmarks, peers. docs/cuda.md, 'Measuring on a GPU'.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { exitCodeOf, runStages, toMarkdown } from './gpu-check/stages.mjs'
import { describeHost } from './gpu-check/host.mjs'
import { stagesFor } from './gpu-check/list.mjs'

const USAGE = `npm run gpu:check -- [options]
  --out DIR      where report.json, report.md, log.txt and the benchmarks' JSON go (default: gpu-check)
  --only LIST    names of stages, separated by commas
  --emulated     rehearsal: the same stages on the emulated GPU, whose times mean nothing
  --build        builds the programs and stops: on a machine with nvcc, before everything travels to one with a GPU
exit code: 0 all that ran passed, 1 something failed, 77 nothing was checked`

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
process.chdir(root)
const { values } = parseArgs({
  options: {
    out: { type: 'string', default: 'gpu-check' },
    only: { type: 'string' },
    emulated: { type: 'boolean', default: false },
    build: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}

const out = resolve(values.out)
mkdirSync(out, { recursive: true })
const host = describeHost()
const context = {
  root,
  out,
  emulated: values.emulated,
  host,
  // Why no stage can run on a device here; a rehearsal needs none.
  noDevice: values.emulated ? undefined : host.noDevice,
  buildFolder: join(root, 'build', 'native'),
  program: (name) => findProgram(values.emulated ? `${name}_emulated` : name),
  findTool,
}

let stages = stagesFor(context)
const known = stages.map(({ name }) => name)
if (values.build) {
  context.noDevice = undefined
  stages = stages.filter(({ name }) => name === 'build')
} else if (values.only) {
  const wanted = values.only.split(',')
  const unknown = wanted.filter((name) => !known.includes(name))
  if (unknown.length > 0) {
    console.error(`gpu:check has no stage ${unknown.join(', ')}; it has ${known.join(', ')}`)
    process.exit(2)
  }
  stages = stages.filter(({ name }) => wanted.includes(name))
}

console.log(
  `gpu:check of ${host.commit} on ${values.emulated ? 'the emulated GPU' : (host.gpu ?? `no GPU (${host.noDevice})`)}`,
)
const results = await runStages(stages, context, (line) => console.log(line))
// A build alone checks nothing, and is asked for.
const exitCode = values.build && results[0].status === 'passed' ? 0 : exitCodeOf(results)
const report = {
  schema: 1,
  date: new Date().toISOString(),
  command: ['npm run gpu:check --', ...process.argv.slice(2)].join(' '),
  emulated: values.emulated,
  host,
  verdict: { 0: values.build ? 'built' : 'passed', 1: 'failed', 77: 'nothing was checked' }[exitCode],
  stages: results,
}
writeFileSync(join(out, 'report.json'), `${JSON.stringify(report, null, 2)}\n`)
writeFileSync(join(out, 'report.md'), toMarkdown(report, out))
console.log(`${report.verdict}; ${relative(root, join(out, 'report.md')) || 'report.md'} has the table`)
process.exit(exitCode)

/** In the build's Release/ or beside it. */
function findProgram(name) {
  const build = context.buildFolder
  const folders = [join(build, 'Release'), build].filter((folder) => existsSync(folder))
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path))
}

/** On PATH, or where CUDA's installer puts it. */
function findTool(name) {
  const cuda = existsSync('/usr/local')
    ? readdirSync('/usr/local').filter((entry) => entry.startsWith('cuda'))
    : []
  const folders = [
    ...(process.env.PATH ?? '').split(delimiter),
    ...cuda.map((entry) => `/usr/local/${entry}/bin`),
  ]
  const found = folders.map((folder) => join(folder, name)).find((path) => existsSync(path))
  return found && spawnSync(found, ['--version']).status === 0 ? found : undefined
}
