// The suite on a device other than the CPU: the emulated GPU has none of the CPU's measuring loops, and fewer ops.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { runBench } from '../../bench/command.ts'
import { readReport } from '../../bench/report.ts'
import { gpuReport } from '../../lib/backends.ts'

const { isBuilt } = gpuReport('cuda-emulator')

describe.skipIf(!isBuilt)(`an emulated GPU${isBuilt ? '' : ' (skipped: it is not built)'}`, () => {
  afterEach(() => vi.restoreAllMocks())

  it('is held against the rates of its simplest ops, and an op it lacks costs only itself', async () => {
    vi.spyOn(process.stdout, 'write').mockImplementation(() => true)
    vi.spyOn(process.stderr, 'write').mockImplementation(() => true)
    const folder = mkdtempSync(join(tmpdir(), 'openmoe-bench-device-'))
    const json = join(folder, 'a.json')
    try {
      const args = [
        '--device',
        'cuda-emulator',
        '--shape',
        'tiny',
        '--tokens',
        '2',
        '--quick',
        '--json',
        json,
      ]
      await expect(runBench(['moe_permute', 'add', ...args])).rejects.toThrow(/1 of the benchmarks failed/)
      const { roofs, results, failures } = readReport(json)
      expect(roofs).toHaveLength(1)
      expect(roofs[0]!.read.instructions).toBe('the op moe_permute')
      expect(results.map(({ name, backend }) => [name, backend])).toEqual([
        ['moe_permute t=2', 'cuda-emulator:0'],
      ])
      expect(failures).toEqual([expect.stringMatching(/^add tiny bf16: .*no kernel for add/)])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
