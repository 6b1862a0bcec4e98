// Types, lint and format of TypeScript and C++, all at once. --fix-native formats the C++ instead of checking it.
import { spawn, spawnSync } from 'node:child_process'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
process.chdir(root)
const listed = spawnSync(
  'git',
  ['ls-files', '-co', '--exclude-standard', 'native', 'tests/native', 'bench/gpu'],
  {
    encoding: 'utf8',
  },
)
const sources = listed.stdout.split('\n').filter((name) => /\.(h|cpp|cu|cuh)$/.test(name))

if (process.argv.includes('--fix-native')) {
  process.exit(spawnSync('npx', ['clang-format', '-i', ...sources], { stdio: 'inherit' }).status ?? 1)
}

const checks = {
  types: ['tsc', '-p', 'tsconfig.dev.json'],
  lint: [
    'eslint',
    '--cache',
    '--cache-location',
    'node_modules/.cache/eslint',
    'lib',
    'tests',
    'bench',
    'scripts',
  ],
  'format (TypeScript)': ['prettier', '--check', '--cache', '--log-level', 'warn', '.'],
  'format (C++)': ['clang-format', '--dry-run', '-Werror', ...sources],
}

const results = await Promise.all(
  Object.entries(checks).map(
    ([name, command]) =>
      new Promise((done) => {
        const started = performance.now()
        const child = spawn('npx', command, { stdio: ['ignore', 'pipe', 'pipe'] })
        let output = ''
        child.stdout.on('data', (data) => (output += data))
        child.stderr.on('data', (data) => (output += data))
        child.on('close', (status) => {
          const seconds = ((performance.now() - started) / 1000).toFixed(1)
          console.log(
            `${status === 0 ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)${status === 0 ? '' : `\n${output}`}`,
          )
          done(status)
        })
      }),
  ),
)
process.exit(results.every((status) => status === 0) ? 0 : 1)
