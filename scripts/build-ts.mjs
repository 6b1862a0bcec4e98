// Compiles lib/ to dist/. In an installed package dist/ is shipped and typescript is absent: then there is nothing to do.
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
const compiled = spawnSync(process.execPath, [join(dirname(typescript), 'bin', 'tsc'), '-p', root], {
  stdio: 'inherit',
})
const cli = join(root, 'dist', 'cli', 'main.js')
if (existsSync(cli)) chmodSync(cli, 0o755)
process.exit(compiled.status ?? 1)
