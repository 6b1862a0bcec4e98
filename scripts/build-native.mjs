// Builds the addon with cmake-js into build/native. --if-missing leaves an existing addon alone (npm install).
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const args = process.argv.slice(2)
const ifMissing = args.includes('--if-missing')
if (process.env.OPENMOE_SKIP_BUILD) process.exit(0)

const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 20 || (major === 20 && minor < 19)) {
  fail(`Node ${process.versions.node} is too old: openmoe needs Node 20.19 or newer.`)
}
requireTool('cmake', ['--version'], 'CMake 3.24 or newer', 'cmake', /version (\d+)\.(\d+)/, [3, 24])
requireTool(
  process.env.CXX ?? 'c++',
  ['--version'],
  'a C++20 compiler (g++ 11, clang 14 or newer)',
  'g++',
  /(?:\s|version )(\d+)\.(\d+)/,
  [11, 0],
)

const output = join(root, 'build', 'native')
if (ifMissing && existsSync(join(output, 'Release', 'openmoe.node'))) process.exit(0)
console.error('openmoe: building the native addon (about a minute; OPENMOE_SKIP_BUILD=1 skips it)')
const cmakeJs = join(
  dirname(createRequire(import.meta.url).resolve('cmake-js/package.json')),
  'bin',
  'cmake-js',
)
const jobs = String(availableParallelism())
const rest = args.filter((arg) => arg !== '--if-missing')
const built = spawnSync(
  process.execPath,
  [cmakeJs, 'build', '-d', root, '-O', output, '-l', 'warn', '-p', jobs, ...rest],
  // stdout belongs to whoever runs us: build noise goes to stderr
  { stdio: ['ignore', 2, 2], env: { ...process.env, CMAKE_BUILD_PARALLEL_LEVEL: jobs } },
)
if (built.status !== 0)
  fail('The native addon was not built; the compiler output is above. Try again with: npm run build')

function requireTool(command, commandArgs, what, debianPackage, pattern, [wantMajor, wantMinor]) {
  const found = spawnSync(command, commandArgs, { encoding: 'utf8' })
  const version = found.stdout?.match(pattern)
  if (found.error || !version) {
    fail(
      `${what} was not found ('${command}' does not run). On Debian or Ubuntu: apt-get install ${debianPackage}`,
    )
  }
  const [haveMajor, haveMinor] = [Number(version[1]), Number(version[2])]
  if (haveMajor < wantMajor || (haveMajor === wantMajor && haveMinor < wantMinor)) {
    fail(
      `${what} is needed, '${command}' is ${version[1]}.${version[2]}. On Debian or Ubuntu: apt-get install ${debianPackage}`,
    )
  }
}

function fail(message) {
  console.error(`openmoe: ${message}`)
  process.exit(1)
}
