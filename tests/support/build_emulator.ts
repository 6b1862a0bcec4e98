// Builds the emulated GPUs that the op tests run on, before any test starts. They are no part of what npm install builds.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'

export default function buildEmulator(): void {
  // Release/ of a cmake-js build; the folder itself where cmake was called by hand.
  const addon =
    process.env.OPENMOE_NATIVE_PATH ?? join(import.meta.dirname, '../../build/native/Release/openmoe.node')
  const folder = [dirname(addon), dirname(dirname(addon))].find((path) =>
    existsSync(join(path, 'CMakeCache.txt')),
  )
  if (!folder) {
    process.stderr.write(`no CMake build around ${addon}: tests on the emulated GPU are skipped\n`)
    return
  }
  if (!existsSync(join(folder, 'CMakeFiles'))) {
    process.stderr.write(`${folder} travelled here without its build tree: the emulator is as it was\n`)
    return
  }
  const args = ['--build', folder, '--target', 'openmoe_cuda_emulator', '--parallel']
  const built = spawnSync('cmake', args, { encoding: 'utf8' })
  if (built.error)
    process.stderr.write(`cmake does not run (${built.error.message}): the emulator is as it was\n`)
  else if (built.status !== 0) throw new Error(`the emulator does not build:\n${built.stdout}${built.stderr}`)
}
