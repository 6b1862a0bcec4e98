// Compiles every GPU kernel for sm_80 and sm_90a (no GPU needed) and holds ptxas to what the kernels are designed for: no
// spills, no stack, no serialised wgmma, registers and shared memory within budget. Usage: npm run cuda:gate
import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const output = join(root, 'build', 'cuda-gate')
// What the module is built with (cmake/gpu_modules.cmake).
const FLAGS = ['-std=c++20', '--expt-relaxed-constexpr', '--fmad=false', '-Xptxas', '-v', '-cubin']
const ARCHS = ['80', '90a']

// Registers of a thread. hopper_gemm with two consumers starts 384 threads with 168 each and then moves them from the
// producer to the consumers; the others have the register file of a block of theirs to themselves.
const BUDGETS = [
  { kernel: /^hopper_gemm<.*HopperShape<[^>]*, 128, 2, 3>/, registers: 168 },
  { kernel: /^hopper_gemm</, registers: 200 },
  { kernel: /^portable_gemm</, registers: 240 },
  { kernel: /^add_split_tiles</, registers: 240 },
  { kernel: /^moe_router_kernel</, registers: 128 },
  { kernel: /^(moe_\w+|pack_weights)_kernel/, registers: 64 },
]
// ptxas says these when it runs asynchronous products one by one, or ignores a change of register counts.
const SLOW = /\((C7508|C7510|C7511|C7512|C7513|C7514|C7515|C7516)\)/
// Shared memory of a block: what sm_86 and sm_89 have (the least from sm_80 on), and what Hopper has.
const SHARED = { 80: 101_376, 90: 232_448 }

if (spawnSync('nvcc', ['--version']).error) {
  console.error(
    'cuda:gate needs nvcc (CUDA 12.4 or newer; no GPU). Put it on PATH, e.g. export PATH=/usr/local/cuda/bin:$PATH',
  )
  process.exit(1)
}
mkdirSync(output, { recursive: true })
const sources = ['native/ops', 'native/gpu'].flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith('.cu') && name !== 'cuda_runtime.cu')
    .map((name) => join(folder, name)),
)
const jobs = sources.flatMap((source) => ARCHS.map((arch) => ({ source, arch })))
const failures = []
const kernels = []
await Promise.all(Array.from({ length: availableParallelism() }, work))
kernels.sort((a, b) => a.name.localeCompare(b.name) || a.arch.localeCompare(b.arch))
print(
  ['kernel', 'arch', 'registers', 'budget', 'stack', 'spilled', 'barriers'],
  kernels.map(({ name, arch, registers, budget, stack, spilled, barriers }) => [
    shortName(name),
    `sm_${arch}`,
    registers,
    budget ?? '-',
    stack,
    spilled,
    barriers,
  ]),
)
checkLaunches()
for (const failure of failures) console.log(`FAIL ${failure}`)
console.log(failures.length === 0 ? 'ok' : `${failures.length} failed`)
process.exit(failures.length === 0 ? 0 : 1)

async function work() {
  for (let job = jobs.shift(); job; job = jobs.shift()) {
    const { source, arch } = job
    const cubin = join(output, `${basename(source, '.cu')}.sm_${arch}.cubin`)
    const target = `-gencode=arch=compute_${arch},code=sm_${arch}`
    const { status, text } = await run('nvcc', [...FLAGS, target, '-Inative', source, '-o', cubin])
    if (status !== 0) failures.push(`${source} does not compile for sm_${arch}:\n${text}`)
    else parse(text, arch)
  }
}

/** ptxas -v: a name, then what it needs, kernel by kernel; advice in between. */
function parse(text, arch) {
  let kernel
  for (const line of text.split('\n')) {
    const entry = line.match(/Compiling entry function '(\w+)'/)
    const memory = line.match(/(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/)
    const used = line.match(/Used (\d+) registers(?:, used (\d+) barriers)?/)
    if (SLOW.test(line)) failures.push(`sm_${arch}: ${line}`)
    if (entry) kernel = { name: demangle(entry[1]), arch }
    if (memory && kernel) Object.assign(kernel, { stack: +memory[1], spilled: +memory[2] + +memory[3] })
    if (used && kernel) check({ ...kernel, registers: +used[1], barriers: +(used[2] ?? 0) })
  }
}

function check(kernel) {
  const budget = BUDGETS.find((one) => one.kernel.test(kernel.name))?.registers
  kernels.push({ ...kernel, budget })
  const what = `${kernel.name} on sm_${kernel.arch}`
  if (budget === undefined) failures.push(`${what} has no budget: add one to scripts/cuda-gate.mjs`)
  else if (kernel.registers > budget)
    failures.push(`${what} uses ${kernel.registers} registers, its budget is ${budget}`)
  if (kernel.stack > 0 || kernel.spilled > 0) failures.push(`${what} spills or keeps a stack`)
}

/** What the launchers ask for at the shapes of openmoe-8b, from the launchers themselves. */
function checkLaunches() {
  const program = join(output, 'gpu_launches')
  const built = spawnSync(
    process.env.CXX ?? 'c++',
    [
      '-std=c++20',
      '-O0',
      '-Inative',
      '-x',
      'c++',
      'tests/native/gpu_launches.cpp',
      ...sources,
      ...emulator(),
      '-o',
      program,
    ],
    { cwd: root, encoding: 'utf8' },
  )
  if (built.status !== 0) return failures.push(`gpu_launches does not compile:\n${built.stderr}`)
  const launches = JSON.parse(spawnSync(program, { encoding: 'utf8' }).stdout)
  for (const { op, arch, shared_bytes } of launches)
    if (shared_bytes > SHARED[arch])
      failures.push(`${op} asks for ${shared_bytes} bytes of shared memory on sm_${arch}`)
  print(
    ['launch', 'tokens', 'arch', 'blocks', 'threads', 'shared bytes', 'of'],
    launches.map(({ op, tokens, arch, blocks, threads, shared_bytes }) => [
      op,
      tokens,
      `sm_${arch}`,
      blocks,
      threads,
      shared_bytes,
      SHARED[arch],
    ]),
  )
}

function emulator() {
  const folder = 'native/gpu/emulator'
  return readdirSync(join(root, folder))
    .filter((name) => name.endsWith('.cpp'))
    .map((name) => join(folder, name))
}

function run(command, args) {
  return new Promise((done) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
    let text = ''
    child.stdout.on('data', (data) => (text += data))
    child.stderr.on('data', (data) => (text += data))
    child.on('close', (status) => done({ status, text }))
  })
}

function demangle(name) {
  const text = spawnSync('c++filt', [name], { encoding: 'utf8' }).stdout?.trim() || name
  return text.replace(/^void /, '').replaceAll(/openmoe::gpu::|\(anonymous namespace\)::/g, '')
}

/** Without parameters, and with the shape as it is known: tokens, consumers, stages. */
function shortName(name) {
  return name.replace(/\(.*$/, '').replace(/HopperShape<\w+, /, 'Shape<')
}

function print(head, rows) {
  const table = [head, ...rows.map((row) => row.map(String))]
  const widths = head.map((_, column) => Math.max(...table.map((row) => row[column].length)))
  for (const row of table)
    console.log(
      row
        .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
        .join('  ')
        .trimEnd(),
    )
  console.log()
}
