// The rules of docs/architecture.md that can be read off the source: who imports whom, how long a file gets, where
// Node and intrinsics may show, and that every op is one complete slice.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { describe, expect, it } from 'vitest'

const ROOT = join(import.meta.dirname, '..')
const MOST_LINES = 300

/** Parts of lib/, lowest first, and what each may import besides itself: only parts above it in this list. */
const PARTS: { name: string; files: RegExp; mayImport: string[] }[] = [
  { name: 'errors', files: /^errors\.ts$/, mayImport: [] },
  // The tokenizer's part of the addon is typed beside its user.
  { name: 'native', files: /^(native|tokenizer\/native_tokenizer)\.ts$/, mayImport: ['errors'] },
  { name: 'tensor', files: /^tensor\.ts$/, mayImport: ['errors', 'native'] },
  { name: 'program', files: /^program\.ts$/, mayImport: ['errors', 'native', 'tensor'] },
  {
    name: 'device',
    files: /^(device|compiled_program|backends)\.ts$/,
    mayImport: ['errors', 'native', 'tensor', 'program'],
  },
  { name: 'ops', files: /^ops\//, mayImport: ['errors', 'tensor', 'program'] },
  { name: 'layers', files: /^layers\//, mayImport: ['errors', 'tensor', 'program', 'ops'] },
  // config.json is checked on its own: the checkpoint reader needs the sizes it gives.
  { name: 'config', files: /^model\/config/, mayImport: ['errors'] },
  { name: 'checkpoint', files: /^checkpoint\//, mayImport: ['errors', 'config'] },
  { name: 'tokenizer', files: /^tokenizer\//, mayImport: ['errors', 'native'] },
  {
    name: 'network',
    files:
      /^model\/(weights|file_source|expect_memory|kv_cache|openmoe|runner|statistics|parameter_count)\.ts$/,
    mayImport: ['errors', 'native', 'tensor', 'program', 'device', 'ops', 'layers', 'config', 'checkpoint'],
  },
  { name: 'generate', files: /^generate\//, mayImport: ['errors', 'ops', 'config', 'network'] },
  {
    name: 'model',
    files: /^model\//,
    mayImport: [
      'errors',
      'tensor',
      'device',
      'ops',
      'config',
      'checkpoint',
      'tokenizer',
      'network',
      'generate',
    ],
  },
  {
    name: 'api',
    files: /^(index|kernels)\.ts$/,
    mayImport: [
      'errors',
      'tensor',
      'program',
      'device',
      'ops',
      'config',
      'tokenizer',
      'network',
      'generate',
      'model',
    ],
  },
  {
    name: 'cli',
    files: /^cli\//,
    mayImport: [
      'errors',
      'tensor',
      'device',
      'config',
      'checkpoint',
      'tokenizer',
      'network',
      'generate',
      'model',
    ],
  },
]

/** Longer than MOST_LINES, and why one file is still better than two. */
const LONG_FILES: Record<string, string> = {}

/** npm packages the library itself may use; those of the terminal stay in cli/. */
const LIBRARY_PACKAGES = ['@huggingface/jinja']
const CLI_PACKAGES = [...LIBRARY_PACKAGES, 'cli-progress', 'commander', 'picocolors']

const INTRINSICS_FILES = [
  'native/support/simd.h',
  'native/support/simd_int.h',
  'native/matmul/float_matmul.h',
  'native/support/isa_begin.h',
  'native/support/packing_vectors.h',
  'native/device/thread_pool.cpp', // one pause instruction
]

const text = (file: string): string => readFileSync(join(ROOT, file), 'utf8')
const filesOf = (folder: string, extension: RegExp): string[] =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .map((name) => `${folder}/${name.replaceAll('\\', '/')}`)
    .filter((name) => extension.test(name))
    .sort()

const libFiles = filesOf('lib', /\.ts$/)
const nativeFiles = filesOf('native', /\.(h|cpp|cu)$/)

function partOf(file: string): (typeof PARTS)[number] {
  const name = file.replace(/^lib\//, '')
  const part = PARTS.find(({ files }) => files.test(name))
  if (!part) throw new Error(`${file} belongs to no part of lib/: add it to PARTS`)
  return part
}

// `import x from '...'`, `import '...'`, `export ... from '...'` at the start of a line, and `import('...')` anywhere.
const IMPORT = /^(?:import|export)\s(?:[^'"]*\sfrom\s+)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/gm

/** What a file imports or re-exports, types included: `./x.ts` as a path from the root, packages as they are. */
function importsOf(file: string): string[] {
  const specifiers = [...text(file).matchAll(IMPORT)].map((match) => (match[1] ?? match[2])!)
  return specifiers.map((name) => (name.startsWith('.') ? posix.join(posix.dirname(file), name) : name))
}

/** Imports that `allowed` refuses, as `from -> to`. */
function violations(allowed: (from: string, to: string) => boolean): string[] {
  return libFiles.flatMap((from) =>
    importsOf(from)
      .filter((to) => !allowed(from, to))
      .map((to) => `${from} -> ${to}`),
  )
}

describe('lib/', () => {
  it('orders its parts so that nobody imports upwards', () => {
    PARTS.forEach(({ name, mayImport }, i) => {
      const below = PARTS.slice(0, i).map((part) => part.name)
      expect(below, `what ${name} may import`).toEqual(expect.arrayContaining(mayImport))
    })
  })

  it('imports only what the table of parts allows', () => {
    const wrong = violations((from, to) => {
      if (!to.startsWith('lib/')) return true
      const part = partOf(from)
      const target = partOf(to).name
      return target === part.name || part.mayImport.includes(target)
    })
    expect(wrong).toEqual([])
  })

  it('imports files that exist', () => {
    expect(violations((_, to) => !to.startsWith('lib/') || existsSync(join(ROOT, to)))).toEqual([])
  })

  it('uses packages of the terminal in cli/ only', () => {
    const wrong = violations((from, to) => {
      if (to.startsWith('lib/') || to.startsWith('node:')) return true
      return (from.startsWith('lib/cli/') ? CLI_PACKAGES : LIBRARY_PACKAGES).includes(to)
    })
    expect(wrong).toEqual([])
  })
})

describe('files', () => {
  it(`have at most ${MOST_LINES} lines, or a reason`, () => {
    const long = [...libFiles, ...nativeFiles]
      .filter((file) => text(file).split('\n').length - 1 > MOST_LINES)
      .filter((file) => !(file in LONG_FILES))
    expect(long).toEqual([])
    for (const file of Object.keys(LONG_FILES)) expect(existsSync(join(ROOT, file)), file).toBe(true)
  })
})

describe('bench/', () => {
  it('reaches the library as #lib/..., which is its sources here and dist/ in an installed package', () => {
    const relative = filesOf('bench', /\.ts$/).flatMap((from) =>
      importsOf(from)
        .filter((to) => to.startsWith('lib/') || to.startsWith('tests/'))
        .map((to) => `${from} -> ${to}`),
    )
    expect(relative).toEqual([])
  })
})

describe('native/', () => {
  const including = (header: RegExp): string[] =>
    nativeFiles.filter((file) =>
      [...text(file).matchAll(/#include\s*[<"]([^>"]+)/g)].some((m) => header.test(m[1]!)),
    )

  it('knows Node in binding/ and addon.cpp only', () => {
    const outside = including(/^(napi|node_api|js_native_api|node|v8|uv)\.h$|^binding\//).filter(
      (file) => !/^native\/(binding\/|addon\.cpp$)/.test(file),
    )
    expect(outside).toEqual([])
  })

  it('has intrinsics in its vector headers only', () => {
    const allowed = (file: string): boolean =>
      INTRINSICS_FILES.includes(file) || file.startsWith('native/support/roofline')
    const headers = including(/intrin\.h$|^arm_neon\.h$|^arm_sve\.h$/)
    const calls = nativeFiles.filter((file) => /\b_mm(?:256|512)?_\w+\(/.test(text(file)))
    expect([...new Set([...headers, ...calls])].filter((file) => !allowed(file))).toEqual([])
  })
})

describe('GPU code', () => {
  const gpuFiles = nativeFiles.filter((file) => file.endsWith('.cu') || file.startsWith('native/gpu/'))
  const ptx = ['native/gpu/ptx.h', 'native/gpu/wgmma_ptx.h']
  const cuda = [...ptx, 'native/gpu/cuda_runtime.cu', 'native/gpu/cuda_stream.h']
  const withText = (pattern: RegExp, allowed: string[]): string[] =>
    gpuFiles.filter((file) => !allowed.includes(file) && pattern.test(text(file)))

  it('holds assembly in the PTX headers only, and no CUDA keyword outside what maps them', () => {
    const emulator = gpuFiles.filter((file) => file.startsWith('native/gpu/emulator/'))
    expect(withText(/\basm\s*(volatile)?\s*\(/, [...ptx, ...emulator])).toEqual([])
    expect(withText(/__global__|__device__|__shared__|<<<|\b(threadIdx|blockIdx)\b/, cuda)).toEqual([])
  })

  it('includes CUDA headers in the runtime only', () => {
    expect(withText(/#include\s*[<"]cuda/, cuda)).toEqual([])
  })

  it('has a launcher in the list for every kernel of an op', () => {
    const listed = [...text('native/gpu/op_list.h').matchAll(/\bX\((\w+), \w+\)/g)].map((match) => match[1]!)
    const kernels = filesOf('native/ops', /\.cu$/).map((file) => posix.basename(file, '.cu'))
    expect([...listed].sort()).toEqual(kernels)
  })
})

describe('an op', () => {
  const ops = [...text('native/ops/op_list.h').matchAll(/\bX\((\w+), \w+\)/g)].map((match) => match[1]!)

  it('is listed when it has a kernel', () => {
    const kernels = filesOf('native/ops', /\.cpp$/).map((file) => posix.basename(file, '.cpp'))
    expect(ops.length).toBeGreaterThan(0)
    expect([...ops].sort()).toEqual(kernels)
  })

  it.each(ops)('is one slice: %s', (op) => {
    const slice = [
      `native/ops/${op}.h`,
      `native/ops/${op}.cpp`,
      `lib/ops/${op}.ts`,
      `tests/ops/${op}.test.ts`,
      `tests/reference/${op}.ts`,
      `bench/ops/${op}.bench.ts`,
    ]
    expect(slice.filter((file) => !existsSync(join(ROOT, file)))).toEqual([])
    expect(text('lib/ops/index.ts')).toContain(`from './${op}.ts'`)
  })
})
