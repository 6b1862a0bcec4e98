// `openmoe convert`: any accepted checkpoint becomes one that computes the same.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openCheckpoint } from '../../lib/checkpoint/open_checkpoint.ts'
import { resolveParameters } from '../../lib/checkpoint/layout.ts'
import { loadConfig } from '../../lib/model/config.ts'
import { convertCheckpoint } from '../../lib/model/convert.ts'
import { loadModel } from '../../lib/model/load_model.ts'
import type { WeightDtype } from '../../lib/model/weights.ts'
import { expectError } from '../support/expect_error.ts'
import { digestWeights, goldenCase } from '../support/golden.ts'
import { expectSameBits } from '../support/op_fixture.ts'
import { tempFolder } from '../support/temp_folder.ts'
import { TINY } from '../support/tiny_model.ts'

const temp = tempFolder()
const newFolder = (): string => join(temp.folder(), 'out')

async function digest(folder: string): Promise<string> {
  const { config } = await loadConfig(folder)
  return digestWeights(resolveParameters(await openCheckpoint(folder), config), config)
}

async function logits(folder: string, dtype: 'auto' | WeightDtype = 'f32') {
  const model = await loadModel(folder, { dtype, threads: 2 })
  try {
    return (await model.forward([[0, 5, 9, 3]])).logits!.data
  } finally {
    await model.dispose()
  }
}

describe('a converted checkpoint', () => {
  it.each(['tiny_dropless', 'tiny_openmoe_pt', 'tiny_sharded', 'tiny_bin_sharded', 'tiny_bf16'])(
    'holds every weight of %s, in the original layout',
    async (name) => {
      const out = newFolder()
      const written = await convertCheckpoint(goldenCase(name), out)
      const index = await openCheckpoint(out)
      expect(index.tensors.size).toBe(written.tensors)
      expect([...index.tensors.keys()]).toContain('model.layers.1.mlp.gate_weight')
      expect(await digest(out)).toBe(await digest(goldenCase(name)))
      expectSameBits(await logits(out), await logits(goldenCase(name)))
    },
  )

  it('narrows matrices to bf16, never routers and norms, and says so in config.json', async () => {
    const out = newFolder()
    await convertCheckpoint(goldenCase('tiny_dropless'), out, { dtype: 'bf16' })
    const { tensors } = await openCheckpoint(out)
    const dtypes = (pattern: RegExp) => [
      ...new Set([...tensors.values()].filter(({ name }) => pattern.test(name)).map(({ dtype }) => dtype)),
    ]
    expect(dtypes(/gate_weight$|norm/)).toEqual(['F32'])
    expect(dtypes(/^(?!.*(gate_weight|norm)).*$/)).toEqual(['BF16'])
    const config = JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')) as { torch_dtype: string }
    expect(config.torch_dtype).toBe('bfloat16')
  })

  it.each(['int8', 'int4'] as const)('holds %s panels that load as they are', async (dtype) => {
    for (const name of ['tiny_dropless', 'ragged', 'tiny_openmoe_pt']) {
      const out = newFolder()
      await convertCheckpoint(goldenCase(name), out, { dtype })
      const { tensors } = await openCheckpoint(out)
      const names = [...tensors.keys()]
      expect(names).toContain(`model.layers.0.self_attn.q_proj.weight.${dtype}_panels`)
      expect(names).toContain(`model.layers.1.mlp.experts.wo.${dtype}_panels`)
      expect(tensors.get('model.layers.1.mlp.gate_weight')!.dtype).toBe('F32')
      const [stored, quantised] = [await logits(out, 'auto'), await logits(goldenCase(name), dtype)]
      expectSameBits(stored, quantised)

      const again = newFolder()
      await convertCheckpoint(out, again)
      expectSameBits(await logits(again, dtype), stored)
      const other = /holds int. weights, dtype 'bf16' was asked for/
      await expectError(loadModel(out, { dtype: 'bf16' }), 'ERR_OPENMOE_DTYPE', other)
      await expectError(
        convertCheckpoint(out, newFolder(), { dtype: 'f32' }),
        'ERR_OPENMOE_DTYPE',
        /cannot become f32/,
      )
    }
  })

  it('comes with its tokenizer', async () => {
    const out = newFolder()
    await convertCheckpoint(TINY, out)
    expect(readdirSync(out)).toEqual(
      expect.arrayContaining(['config.json', 'spiece.model', 'tokenizer.json']),
    )
    const model = await loadModel(out)
    const { text } = await model.generate('Call me', { maxTokens: 4 })
    await model.dispose()
    expect(text).not.toBe('')
  })
})

describe('converting', () => {
  it('reports progress up to the end', async () => {
    const ratios: number[] = []
    await convertCheckpoint(TINY, newFolder(), { onProgress: ({ ratio }) => ratios.push(ratio) })
    expect(ratios.length).toBeGreaterThan(5)
    expect(ratios).toEqual([...ratios].sort((a, b) => a - b))
    expect(ratios.at(-1)).toBe(1)
  })

  it('leaves nothing under the name of a checkpoint when it is aborted', async () => {
    const out = newFolder()
    const controller = new AbortController()
    const reason = new Error('enough')
    const running = convertCheckpoint(TINY, out, {
      signal: controller.signal,
      onProgress: () => controller.abort(reason),
    })
    await expect(running).rejects.toBe(reason)
    expect(readdirSync(out)).toEqual([])
  })

  it('refuses a folder that holds something', async () => {
    await expectError(convertCheckpoint(TINY, TINY), 'ERR_OPENMOE_INVALID_ARG', /is not empty/)
  })
})
