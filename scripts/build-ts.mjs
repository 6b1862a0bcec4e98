// Compiles lib/ to dist/ and bench/ to dist/bench/. In an installed package dist/ is shipped and typescript is absent: then there is nothing to do.
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
let typescript
try {
  typescript = createRequire(import.meta.url).resolve('typescript/package.json')
} catch {
  process.exit(0)
}
rmSync(join(root, 'dist'), { recursive: true, force: true })
// bench/ sees the library as it is built, so it comes second.
let status = 0
for (const project of [root, join(root, 'bench')]) {
  const tsc = join(dirname(typescript), 'bin', 'tsc')
  status ||= spawnSync(process.execPath, [tsc, '-p', project], { stdio: 'inherit' }).status ?? 1
}
const cli = join(root, 'dist', 'cli', 'main.js')
if (existsSync(cli)) chmodSync(cli, 0o755)
process.exit(status)
