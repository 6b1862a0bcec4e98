import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { checkCase, readManifest } from './conformance.ts'

const folder = fileURLToPath(new URL('.', import.meta.url))

describe('openmoe forward on the golden cases', async () => {
  for (const golden of await readManifest(folder)) {
    for (const expected of golden.expected) {
      it.each(['f32', 'bf16'] as const)(`${golden.name}, ${expected.capacity_mode}, %s`, async (dtype) => {
        expect(await checkCase(folder, golden, expected, dtype)).toEqual([])
      })
    }
  }
})
