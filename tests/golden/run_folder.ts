// npm run golden -- DIR: every golden case of a folder, f32 and bf16, in every capacity mode it lists.
import { checkCase, readManifest } from './conformance.ts'

const folder = process.argv[2] ?? new URL('.', import.meta.url).pathname
let passed = 0
let failed = 0
process.stderr.write = () => true // `openmoe forward` says where it wrote; nobody keeps those files
for (const golden of await readManifest(folder)) {
  for (const expected of golden.expected) {
    for (const dtype of ['f32', 'bf16'] as const) {
      const problems = await checkCase(folder, golden, expected, dtype)
      const what = `${golden.name} ${expected.capacity_mode} ${dtype}`
      console.log(problems.length === 0 ? `ok   ${what}` : `FAIL ${what}\n     ${problems.join('\n     ')}`)
      if (problems.length === 0) passed++
      else failed++
    }
  }
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 && passed > 0 ? 0 : 1
