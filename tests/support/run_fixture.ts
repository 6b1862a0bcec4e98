// Plain JavaScript programs in a process of their own: what kills a process is seen from outside.
import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { TINY } from './tiny_model.ts'

const root = join(import.meta.dirname, '../..')
const require = createRequire(import.meta.url)

/** Bundles lib/ into one file, because workers and child processes start ten times faster without a TypeScript loader. */
export function bundleLib(outfile: string): void {
  const { buildSync } = createRequire(require.resolve('tsx'))('esbuild') as {
    buildSync: (options: object) => void
  }
  const contents = ['index', 'native', 'device', 'program', 'kernels']
    .map((name) => `export * from './lib/${name}.ts'`)
    .join('\n')
  buildSync({
    stdin: { contents, resolveDir: root },
    bundle: true,
    platform: 'node',
    format: 'esm',
    outfile,
    logLevel: 'error',
  })
}

export interface Ended {
  code: number | null
  signal: string | null
  stdout: string
  stderr: string
}

/** Runs tests/lifecycle/fixtures/NAME; it finds the bundle, the model and its arguments in process.argv. */
export function runFixture(
  name: string,
  lib: string,
  args: readonly (string | number)[] = [],
  flags: readonly string[] = [],
): Promise<Ended> {
  const native = process.env.OPENMOE_NATIVE_PATH ?? join(root, 'build/native/Release/openmoe.node')
  const file = join(root, 'tests/lifecycle/fixtures', name)
  const child = spawn(process.execPath, [...flags, file, lib, TINY, ...args.map(String)], {
    env: { ...process.env, OPENMOE_NATIVE_PATH: native },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (data) => (stdout += data))
  child.stderr.on('data', (data) => (stderr += data))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
}
