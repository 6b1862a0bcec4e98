// The benches of an installed package: dist/ alone, without the sources they were compiled from.
import { execFileSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

const ROOT = resolve(import.meta.dirname, '..', '..')
const built = existsSync(join(ROOT, 'dist', 'bench', 'command.js'))

describe.skipIf(!built)(
  `an installed package${built ? '' : ' (skipped: dist/ is not built, run npm run build)'}`,
  () => {
    let folder: string

    beforeAll(() => {
      folder = mkdtempSync(join(tmpdir(), 'openmoe-installed-'))
      for (const name of ['dist', 'package.json'])
        cpSync(join(ROOT, name), join(folder, name), { recursive: true })
      symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
      mkdirSync(join(folder, 'build', 'native'), { recursive: true })
      symlinkSync(join(ROOT, 'build', 'native', 'Release'), join(folder, 'build', 'native', 'Release'))
    })
    afterAll(() => rmSync(folder, { recursive: true }))

    it('imports no TypeScript', () => {
      const files = readdirSync(join(folder, 'dist'), { recursive: true, encoding: 'utf8' })
      const scripts = files.filter((name) => name.endsWith('.js'))
      const IMPORT = /(?:from|import\()\s*['"][^'"]+\.ts['"]/
      expect(scripts.filter((name) => IMPORT.test(readFileSync(join(folder, 'dist', name), 'utf8')))).toEqual(
        [],
      )
    })

    it('measures, and writes the report and the page', () => {
      const [json, html] = [join(folder, 'a.json'), join(folder, 'a.html')]
      const args = [
        'bench',
        'rope',
        '--shape',
        'tiny',
        '--tokens',
        '3',
        '--quick',
        '--json',
        json,
        '--html',
        html,
      ]
      const output = execFileSync(process.execPath, [join(folder, 'dist/cli/main.js'), ...args], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      expect(output).toMatch(/^rope t=3 .* of roof/m)
      expect((JSON.parse(readFileSync(json, 'utf8')) as { results: unknown[] }).results).toHaveLength(1)
      expect(readFileSync(html, 'utf8')).toContain('<svg')
    })
  },
)
