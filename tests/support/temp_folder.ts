import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll } from 'vitest'

/** A folder that lasts as long as the test file; `write` puts bytes under a name in it and returns the path. */
export function tempFolder() {
  const path = mkdtempSync(join(tmpdir(), 'openmoe-test-'))
  afterAll(() => rmSync(path, { recursive: true, force: true }))
  let count = 0
  const write = (name: string, bytes: string | Uint8Array): string => {
    const file = join(path, name)
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, bytes)
    return file
  }
  /** A new empty folder inside. */
  const folder = (): string => {
    const inner = join(path, `folder-${count++}`)
    mkdirSync(inner)
    return inner
  }
  return { path, write, folder }
}
