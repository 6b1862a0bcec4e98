// Builds every GPU kernel for sm_80 and sm_90a (no GPU needed) and holds ptxas to what the kernels are designed for: no
// spills, no stack, no serialised wgmma, registers and shared memory within budget. The objects are those of the module
// itself; the build keeps what ptxas said beside them (cmake/keep_output.sh). Usage: npm run cuda:gate
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const build = join(root, 'build', 'native')
const ARCHS = ['80', '90a']
// Kernels of the module, and of the programs for a machine with a GPU, which have wrappers that the module has not.
const MODULE = 'gpu_kernels'
const PROGRAMS = ['gpu_conformance', 'moe_bench']

// Registers of a thread. hopper_gemm with two consumers starts 384 threads with 168 each and then moves them from the
// producer to the consumers; the others have the register file of a block of theirs to themselves.
const BUDGETS = [
  { kernel: /^hopper_gemm<.*HopperShape<[^>]*, 128, 2, 3>/, registers: 168 },
  { kernel: /^hopper_gemm</, registers: 200 },
  { kernel: /^portable_gemm</, registers: 240 },
  { kernel: /^add_split_tiles</, registers: 240 },
  { kernel: /^moe_router_kernel</, registers: 128 },
  { kernel: /^(moe_\w+|pack_weights)_kernel/, registers: 64 },
  { kernel: /^(conformance|bench)::/, registers: 255 }, // all there are: nobody waits for these
]
// ptxas says these when it runs asynchronous products one by one, or ignores a change of register counts.
const SLOW = /\((C7508|C7510|C7511|C7512|C7513|C7514|C7515|C7516)\)/
// Shared memory of a block: what sm_86 and sm_89 have (the least from sm_80 on), and what Hopper has.
const SHARED = { 80: 101_376, 90: 232_448 }

if (spawnSync('nvcc', ['--version']).error) {
  console.error(
    'cuda:gate needs nvcc (12.8 or newer; no GPU). Put it on PATH, e.g. export PATH=/usr/local/cuda/bin:$PATH',
  )
  process.exit(1)
}
const failures = []
const kernels = []
buildAll()
for (const target of [MODULE, ...PROGRAMS])
  for (const object of objectsOf(target)) {
    const log = `${object}.log`
    const found = existsSync(log) ? parse(readFileSync(log, 'utf8')) : []
    for (const arch of ARCHS)
      if (!found.some((kernel) => kernel.arch === arch))
        failures.push(`${log} names no kernel for sm_${arch}. Remove build/native and run: npm run build`)
    found.forEach(check)
    if (target === MODULE) kernels.push(...found)
  }
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

function buildAll() {
  const targets = [MODULE, ...PROGRAMS, 'gpu_launches_emulated']
  const args = ['--build', build, '--parallel', String(availableParallelism()), '--target', ...targets]
  const built = spawnSync('cmake', args, { encoding: 'utf8' })
  if (built.status === 0) return
  console.error(`${built.stdout}${built.stderr}`)
  console.error(
    'cuda:gate looks at the build of the CUDA module, with nvcc 12.8 or newer. Try: npm run build',
  )
  process.exit(1)
}

function objectsOf(target) {
  const folder = join(build, 'CMakeFiles', `${target}.dir`)
  const objects = readdirSync(folder, { recursive: true }).filter((name) => name.endsWith('.cu.o'))
  return objects.map((name) => join(folder, name))
}

/** ptxas -v: a name, then what it needs, kernel by kernel; advice in between. */
function parse(text) {
  const found = []
  let kernel
  for (const line of text.split('\n')) {
    const entry = line.match(/Compiling entry function '(\w+)' for 'sm_(\w+)'/)
    const memory = line.match(/(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/)
    const used = line.match(/Used (\d+) registers(?:, used (\d+) barriers)?/)
    if (SLOW.test(line)) failures.push(line)
    if (entry) found.push((kernel = { name: demangle(entry[1]), arch: entry[2] }))
    if (memory && kernel) Object.assign(kernel, { stack: +memory[1], spilled: +memory[2] + +memory[3] })
    if (used && kernel) Object.assign(kernel, { registers: +used[1], barriers: +(used[2] ?? 0) })
  }
  for (const one of found) one.budget = BUDGETS.find(({ kernel }) => kernel.test(one.name))?.registers
  return found
}

function check(kernel) {
  const { budget } = kernel
  const what = `${kernel.name} on sm_${kernel.arch}`
  if (budget === undefined) failures.push(`${what} has no budget: add one to scripts/cuda-gate.mjs`)
  else if (kernel.registers > budget)
    failures.push(`${what} uses ${kernel.registers} registers, its budget is ${budget}`)
  if (kernel.stack > 0 || kernel.spilled > 0) failures.push(`${what} spills or keeps a stack`)
}

/** What the launchers ask for at the shapes of openmoe-8b, from the launchers themselves. */
function checkLaunches() {
  const program = [join(build, 'Release'), build]
    .map((folder) => join(folder, 'gpu_launches_emulated'))
    .find((path) => existsSync(path))
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
