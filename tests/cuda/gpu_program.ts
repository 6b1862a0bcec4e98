// Compiles tests of GPU kernels for the emulator, with the host compiler alone: a native test, the kernels it runs and
// the emulator. Objects are kept under build/gpu-tests until a source changes.
import { type ExecFileException, execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'

const ROOT = join(import.meta.dirname, '..', '..')
const OUTPUT = join(ROOT, 'build', 'gpu-tests')
const LAUNCHER = process.env.CMAKE_CXX_COMPILER_LAUNCHER?.split(' ') ?? []
const COMPILER = [...LAUNCHER, process.env.CXX ?? 'c++']
const FLAGS = ['-std=c++20', '-O1', '-Wall', '-Wextra', '-ffp-contract=off']

/** A change to a source, as text: every `from` occurs exactly once. */
export interface Patch {
  file: string
  edits: (readonly [from: string, to: string])[]
}

export interface Run {
  ok: boolean
  output: string
}

const exec = promisify(execFile)
let running = 0
const waiting: (() => void)[] = []

/** As many processes at a time as there are cores. */
async function spawn(command: string[], timeout = 60_000): Promise<Run> {
  if (running >= availableParallelism()) await new Promise<void>((resolve) => waiting.push(resolve))
  else running++
  try {
    const { stdout, stderr } = await exec(command[0]!, command.slice(1), { cwd: ROOT, timeout })
    return { ok: true, output: stdout + stderr }
  } catch (error) {
    const { stdout = '', stderr = '', killed, signal } = error as ExecFileException
    const how = killed ? 'timed out' : signal ? `killed by ${signal}` : ''
    return { ok: false, output: `${stdout}${stderr}${how}` }
  } finally {
    const next = waiting.shift()
    if (next) next()
    else running--
  }
}

const filesOf = (folder: string): string[] =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(h|cpp|cu)$/.test(name))
    .map((name) => join(folder, name))
    .sort()
const sources = ['native', 'tests/native', 'bench/gpu'].flatMap(filesOf)
const hash = createHash('sha256').update(FLAGS.join(' '))
for (const file of sources) hash.update(file).update(readFileSync(join(ROOT, file)))
const objects = join(OUTPUT, hash.digest('hex').slice(0, 16))
const inProgress = new Map<string, Promise<string>>()

async function compile(source: string, object: string, includes: string[], kind = 'c++'): Promise<string> {
  const include = [...includes, 'native', 'tests/native'].map((folder) => `-I${folder}`)
  const before = kind === 'c++' ? await prefix() : []
  const temporary = `${object}.${process.pid}`
  const command = [...COMPILER, ...FLAGS, ...include, ...before, '-x', kind, '-c', source, '-o', temporary]
  const { ok, output } = await spawn(command)
  if (!ok) throw new Error(`${source} does not compile:\n${output}`)
  renameSync(temporary, object) // another test process may have been faster
  return object
}

// Parsing these headers is half of the time a kernel takes. Compiler launchers cache objects, but none with such a prefix.
const STANDARD = ['algorithm', 'cmath', 'cstring', 'functional', 'memory', 'random', 'string', 'vector']
let prefixed: Promise<string[]> | undefined
function prefix(): Promise<string[]> {
  if (LAUNCHER.length > 0) return Promise.resolve([])
  return (prefixed ??= (async () => {
    const header = join(objects, `standard.${process.pid}.h`)
    mkdirSync(objects, { recursive: true })
    writeFileSync(header, STANDARD.map((name) => `#include <${name}>\n`).join(''))
    await compile(header, `${header}.gch`, [], 'c++-header')
    return ['-include', header]
  })())
}

/** The object of an unchanged source. */
function objectOf(source: string): Promise<string> {
  const object = join(objects, `${basename(source)}.o`)
  const known = inProgress.get(object)
  if (known) return known
  mkdirSync(objects, { recursive: true })
  const made = existsSync(object) ? Promise.resolve(object) : compile(source, object, [])
  inProgress.set(object, made)
  return made
}

export interface Program {
  /** A file of tests/native, or a path from the root, without its extension. */
  test: string
  /** .cu files that it runs. */
  kernels: string[]
}

async function link(name: string, parts: Promise<string>[]): Promise<string> {
  const program = join(objects, name)
  const { ok, output } = await spawn([...COMPILER.slice(-1), ...(await Promise.all(parts)), '-o', program])
  if (!ok) throw new Error(`${name} does not link:\n${output}`)
  return program
}

const emulator = (): string[] => filesOf('native/gpu/emulator').filter((file) => file.endsWith('.cpp'))

const sourceOf = (test: string): string => `${test.includes('/') ? test : `tests/native/${test}`}.cpp`

/** Builds a test and runs it. */
export async function runProgram({ test, kernels }: Program, args: string[] = []): Promise<Run> {
  const parts = [sourceOf(test), ...kernels, ...emulator()]
  return spawn([await link(`${basename(test)}.${process.pid}`, parts.map(objectOf)), ...args])
}

export interface Mutant extends Patch {
  name: string
  program: Program
  /** The part of the test that must notice. */
  part: string
}

/** The test with a changed source, or with a changed header and one source that includes it. */
export async function runMutant({ name, program, part, ...patch }: Mutant): Promise<Run> {
  const mutant = join('mutants', name.replaceAll(' ', '_'))
  const folder = join(objects, mutant)
  const changed = join(folder, patch.file)
  mkdirSync(dirname(changed), { recursive: true })
  // Of sources that share a changed header one is enough; linked first, its inline functions are everybody's. A
  // program names first the kernel that should notice; one without kernels brings its own.
  const unchanged = [...program.kernels, sourceOf(program.test), ...emulator()]
  const source = patch.file.endsWith('.h') ? unchanged[0]! : patch.file
  // A test includes its headers from where it stands.
  const test = source.startsWith('tests/')
  if (test) cpSync(join(ROOT, 'tests/native'), join(folder, 'tests/native'), { recursive: true })
  writeFileSync(changed, applyPatch(patch))
  const compiled = test || source === patch.file ? join(folder, source) : source
  const object = compile(compiled, join(folder, 'changed.o'), [join(folder, 'native')])
  const others = unchanged.filter((one) => one !== source).map(objectOf)
  return spawn([await link(join(mutant, 'program'), [object, ...others]), part], 30_000)
}

export function applyPatch({ file, edits }: Patch): string {
  let text = readFileSync(join(ROOT, file), 'utf8')
  for (const [from, to] of edits) {
    if (text.split(from).length !== 2) throw new Error(`${file} does not hold once: ${from}`)
    text = text.replace(from, () => to)
  }
  return text
}
