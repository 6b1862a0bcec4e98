// The native tests under ASan + UBSan and under TSan, the addon's tests under ASan, and proof that a planted bug is
// caught; the tests on the emulated GPU under ASan. Usage: npm run sanitize [address|thread|addon|emulator ...]
import { spawn, spawnSync } from 'node:child_process'
import { readdirSync, realpathSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const wanted = process.argv.slice(2)
const wants = (name) => wanted.length === 0 || wanted.includes(name)
let failed = 0

if (wants('address')) await nativeTests('address', 'address,undefined', 'overflow')
if (wants('thread')) await nativeTests('thread', 'thread', 'race')
if (wants('addon')) await addonTests('addon', 'addon', ['tests/ops', 'tests/tokenizer'])
if (wants('emulator'))
  await addonTests('emulator', 'address', [
    'tests/device',
    'tests/layers',
    'tests/ops/moe_',
    'tests/ops/grouped_',
    '-t',
    'emulat',
  ])
process.exit(failed === 0 ? 0 : 1)

/** Builds tests/native with a sanitizer, runs every program, then one with a planted bug, which must fail. */
async function nativeTests(name, sanitizers, bug) {
  const programs = readdirSync(join(root, 'tests', 'native'))
    .filter((file) => file.endsWith('.cpp'))
    .map((file) => basename(file, '.cpp'))
  // The emulator's fibers all run on one thread, by a switch of stacks that TSan takes for a jump.
  const skipped = programs.filter((program) => name === 'thread' && program.startsWith('gpu_'))
  const tested = programs.filter((program) => !skipped.includes(program))
  const folder = build(name, sanitizers, tested)
  for (const program of skipped) console.log(`skip ${name}: ${program}: it has one thread`)
  const work = tested.map((program) => async () => {
    expect(`${name}: ${program}`, await run(join(folder, program), []), true)
  })
  work.push(async () => {
    const planted = await run(join(folder, 'thread_pool_test'), [`--plant=${bug}`])
    expect(`${name}: planted ${bug} is caught`, planted, false)
  })
  await Promise.all(
    Array.from({ length: availableParallelism() }, async () => {
      for (let next = work.shift(); next; next = work.shift()) await next()
    }),
  )
}

/** Tests against an ASan build of the addon and of the emulator, inside the stock node. */
async function addonTests(name, buildName, tests) {
  const folder = build(buildName, 'address,undefined', ['openmoe', 'openmoe_cuda_emulator'])
  const library = (name) => realpathSync(output('g++', [`-print-file-name=${name}`]))
  const status = await run('npx', ['vitest', 'run', ...tests], {
    OPENMOE_NATIVE_PATH: join(folder, 'openmoe.node'),
    // libstdc++ after libasan, so that exceptions are intercepted; leaks are node's own at exit
    LD_PRELOAD: `${library('libasan.so')} ${library('libstdc++.so')}`,
    ASAN_OPTIONS: 'detect_leaks=0:exitcode=99',
  })
  expect(`address: ${name} tests`, status, true)
}

function build(name, sanitizers, targets) {
  const folder = join(root, 'build', `sanitize-${name}`)
  const options = ['-DCMAKE_BUILD_TYPE=Debug', `-DOPENMOE_SANITIZE=${sanitizers}`]
  // Only the addon's op tests are about the kernels of every instruction set.
  if (name !== 'addon') options.push('-DOPENMOE_PORTABLE=ON')
  const quiet = { stdio: ['ignore', 'ignore', 'inherit'] }
  const cmake = (...args) => spawnSync('cmake', args, quiet).status === 0
  const built =
    cmake('-S', root, '-B', folder, ...options, '-DOPENMOE_CUDA=off', '-DOPENMOE_TESTS=ON') &&
    cmake('--build', folder, '-j', String(availableParallelism()), '--target', ...targets)
  if (!built) {
    console.error(`sanitize: the ${name} build failed`)
    process.exit(1)
  }
  return folder
}

function run(command, args, env = {}) {
  const child = spawn(command, args, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      TSAN_OPTIONS: 'halt_on_error=1',
      UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
      ...env,
    },
  })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (text += data))
  return new Promise((done, failed) => {
    child.on('error', failed)
    child.on('close', (status) => done({ ok: status === 0, text }))
  })
}

function expect(what, { ok, text }, wantOk) {
  if (ok === wantOk) {
    console.log(`ok   ${what}`)
    return
  }
  failed++
  console.log(`FAIL ${what}\n${text}`)
}

function output(command, args) {
  return spawnSync(command, args, { encoding: 'utf8' }).stdout.trim()
}
