// What int8 and int4 weights cost in quality: npx tsx --conditions=openmoe-source bench/quantization_quality.ts [FOLDER of <domain>-*.txt]
// Prints the tables of docs/quantization.md: the error of the logits on the golden cases and the bundled model, and bits
// per byte of each domain's texts.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { loadModel, type Model } from '#lib/index'

const DTYPES = ['bf16', 'int8', 'int4'] as const
const root = fileURLToPath(new URL('..', import.meta.url))
const TINY = join(root, 'models/openmoe-tiny')
const GOLDEN = ['tiny_dropless', 'ragged', 'batch3_drops']
const WINDOW = 512
const BYTES_PER_FILE = 12_000

async function withModel<T>(
  folder: string,
  dtype: 'f32' | (typeof DTYPES)[number],
  use: (m: Model) => Promise<T>,
) {
  const model = await loadModel(folder, { dtype })
  try {
    return await use(model)
  } finally {
    await model.dispose()
  }
}

function nmse(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0
  let power = 0
  for (let i = 0; i < expected.length; i++) {
    error += (actual[i]! - expected[i]!) ** 2
    power += expected[i]! ** 2
  }
  return error / power
}

async function logitErrors(name: string, folder: string, ids: number[][]): Promise<void> {
  const logits = (model: Model) => model.forward(ids).then((result) => result.logits!.data)
  const exact = await withModel(folder, 'f32', logits)
  const cells: string[] = []
  for (const dtype of DTYPES) cells.push(nmse(await withModel(folder, dtype, logits), exact).toExponential(1))
  console.log(`| ${name} | ${cells.join(' | ')} |`)
}

/** Nats of the windows of a text, as bits per byte. */
async function bitsPerByte(model: Model, text: string): Promise<number> {
  const ids = model.tokenizer.encode(text)
  let nats = 0
  for (let start = 0; start < ids.length; start += WINDOW) {
    const { logprobs } = await model.score([0, ...ids.slice(start, start + WINDOW)])
    for (const logprob of logprobs) nats -= logprob
  }
  return nats / Math.LN2 / Buffer.byteLength(text)
}

async function domains(folder: string): Promise<void> {
  const files = readdirSync(folder).filter((name) => name.endsWith('.txt'))
  const texts = new Map<string, string[]>()
  for (const name of files) {
    const [domain = ''] = name.split('-')
    texts.set(domain, [...(texts.get(domain) ?? []), name])
  }
  const results = new Map<string, number[]>()
  for (const dtype of ['f32', ...DTYPES] as const) {
    await withModel(TINY, dtype, async (model) => {
      for (const [domain, names] of texts) {
        const text = names
          .map((name) => readFileSync(join(folder, name), 'utf8').slice(0, BYTES_PER_FILE))
          .join('\n')
        results.set(domain, [...(results.get(domain) ?? []), await bitsPerByte(model, text)])
      }
    })
  }
  console.log('\n| domain | f32 | bf16 | int8 | int4 |\n| --- | --- | --- | --- | --- |')
  for (const [domain, [exact = 0, ...others]] of results) {
    const change = others.map((bits) => `${bits >= exact ? '+' : ''}${(bits - exact).toFixed(4)}`)
    console.log(`| ${domain} | ${exact.toFixed(3)} | ${change.join(' | ')} |`)
  }
}

console.log('| NMSE of the logits against f32 | bf16 | int8 | int4 |\n| --- | --- | --- | --- |')
for (const name of GOLDEN) {
  const folder = join(root, 'tests/golden', name)
  const { input_ids: ids } = JSON.parse(readFileSync(join(folder, 'inputs.json'), 'utf8')) as {
    input_ids: number[][]
  }
  await logitErrors(name, folder, ids)
}
const { samples } = JSON.parse(readFileSync(join(TINY, 'samples.json'), 'utf8')) as {
  samples: { input_ids: number[]; greedy_dropless: { ids: number[] } }[]
}
await logitErrors(
  'openmoe-tiny',
  TINY,
  samples.map(({ input_ids, greedy_dropless }) => [...input_ids, ...greedy_dropless.ids]),
)
const [folder] = process.argv.slice(2)
if (folder) await domains(folder)
