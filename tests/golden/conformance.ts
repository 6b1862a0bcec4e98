// A golden case through `openmoe forward`, compared as golden/manifest.json says (spec section 13).
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readSafetensors } from '../../lib/checkpoint/safetensors.ts'
import { runCli } from '../../lib/cli/cli.ts'

interface Fp32Tolerance {
  logits_atol: number
  hidden_atol: number
  router_logits_atol: number
  topk_prob_atol: number
  loss_rtol: number
}

export interface GoldenCase {
  name: string
  expected: { capacity_mode: string; tensors: string; json: string }[]
  tolerance: {
    compute_fp32: Fp32Tolerance
    compute_bf16: Record<string, { logits_median_row_error_max: number; topk_agreement_min: number }>
  }
}

interface ExpectedJson {
  capacity_per_group: number[]
  greedy: number[][]
  losses: Record<string, number | number[]>
}

type Values = ArrayLike<number>

export async function readManifest(folder: string): Promise<GoldenCase[]> {
  const manifest = JSON.parse(await readFile(join(folder, 'manifest.json'), 'utf8')) as { cases: GoldenCase[] }
  return manifest.cases
}

/** Every disagreement of one case in one mode and dtype, in sentences; empty when it conforms. */
export async function checkCase(
  folder: string,
  golden: GoldenCase,
  expected: GoldenCase['expected'][number],
  dtype: 'f32' | 'bf16',
): Promise<string[]> {
  const directory = join(folder, golden.name)
  const scratch = await mkdtemp(join(tmpdir(), 'openmoe-golden-'))
  try {
    const output = join(scratch, 'out.safetensors')
    const status = await runCli([
      'forward',
      ...['--model', directory, '--input', join(directory, 'inputs.json'), '--output', output],
      ...['--expert-capacity', expected.capacity_mode, '--dtype', dtype],
    ])
    if (status !== 0) return [`openmoe forward ended with status ${status}`]
    const want = await tensors(join(directory, expected.tensors))
    const got = await tensors(output)
    const json = async (path: string): Promise<ExpectedJson> =>
      JSON.parse(await readFile(path, 'utf8')) as ExpectedJson
    if (dtype === 'bf16') return compareBf16(want, got, golden.tolerance.compute_bf16[expected.capacity_mode]!)
    return [
      ...compareFp32(want, got, golden.tolerance.compute_fp32),
      ...compareJson(
        await json(join(directory, expected.json)),
        await json(`${output}.json`),
        golden.tolerance.compute_fp32.loss_rtol,
      ),
    ]
  } finally {
    await rm(scratch, { recursive: true })
  }
}

async function tensors(path: string): Promise<Map<string, { shape: readonly number[]; data: Values }>> {
  return readSafetensors(path, { widenBf16: true })
}

function compareFp32(
  want: Awaited<ReturnType<typeof tensors>>,
  got: Awaited<ReturnType<typeof tensors>>,
  tolerance: Fp32Tolerance,
): string[] {
  const problems: string[] = []
  for (const [name, { shape, data }] of want) {
    const actual = got.get(name)
    if (!actual || actual.shape.join() !== shape.join()) {
      problems.push(`${name}: ${actual ? `[${actual.shape.join()}]` : 'missing'}, expected [${shape.join()}]`)
      continue
    }
    const worst = maxDifference(actual.data, data)
    const atol = toleranceOf(name, tolerance)
    if (!(worst <= atol)) problems.push(`${name}: differs by ${worst}, allowed ${atol}`)
  }
  return problems
}

function toleranceOf(name: string, tolerance: Fp32Tolerance): number {
  if (/\.(topk_index|rank|kept)$/.test(name)) return 0
  if (name.endsWith('.topk_prob')) return tolerance.topk_prob_atol
  if (name.endsWith('.router_logits')) return tolerance.router_logits_atol
  return name.endsWith('logits') ? tolerance.logits_atol : tolerance.hidden_atol
}

function compareJson(want: ExpectedJson, got: ExpectedJson, rtol: number): string[] {
  const problems: string[] = []
  const same = (name: 'capacity_per_group' | 'greedy'): void => {
    if (JSON.stringify(got[name]) === JSON.stringify(want[name])) return
    problems.push(`${name}: ${JSON.stringify(got[name])}, expected ${JSON.stringify(want[name])}`)
  }
  same('capacity_per_group')
  same('greedy')
  for (const [name, value] of Object.entries(want.losses)) {
    const expected = [value].flat()
    const actual = [got.losses[name] ?? NaN].flat()
    const close = expected.every((x, i) => Math.abs(actual[i]! - x) <= rtol * Math.abs(x))
    if (!close || actual.length !== expected.length) problems.push(`losses.${name}: ${actual}, expected ${expected}`)
  }
  return problems
}

/** Median over positions of rms(error) / rms(logits), and how often the same experts were chosen. */
function compareBf16(
  want: Awaited<ReturnType<typeof tensors>>,
  got: Awaited<ReturnType<typeof tensors>>,
  tolerance: { logits_median_row_error_max: number; topk_agreement_min: number },
): string[] {
  const problems: string[] = []
  const { shape, data } = want.get('logits')!
  const actual = got.get('logits')!.data
  const columns = shape.at(-1)!
  const errors = Array.from({ length: data.length / columns }, (_, row) => {
    let error = 0
    let power = 0
    for (let i = row * columns; i < (row + 1) * columns; i++) {
      error += (actual[i]! - data[i]!) ** 2
      power += data[i]! ** 2
    }
    return Math.sqrt(error / power)
  }).sort((a, b) => a - b)
  const median = errors[errors.length >> 1]!
  if (!(median <= tolerance.logits_median_row_error_max)) {
    problems.push(`logits: median row error ${median}, allowed ${tolerance.logits_median_row_error_max}`)
  }
  let equal = 0
  let total = 0
  for (const [name, { data: choices }] of want) {
    if (!name.endsWith('.topk_index')) continue
    const chosen = got.get(name)!.data
    for (let i = 0; i < choices.length; i++, total++) if (choices[i] === chosen[i]) equal++
  }
  if (equal / total < tolerance.topk_agreement_min) {
    problems.push(`topk_index: ${equal} of ${total} agree, needed ${tolerance.topk_agreement_min}`)
  }
  return problems
}

/** NaN where either holds one, so that no comparison passes. */
function maxDifference(a: Values, b: Values): number {
  let worst = 0
  for (let i = 0; i < b.length; i++) {
    const difference = Math.abs(a[i]! - b[i]!)
    if (!(difference <= worst)) worst = difference
  }
  return worst
}
