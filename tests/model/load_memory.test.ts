// Loading streams: what it needs besides the weights does not grow with them.
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { canonicalParameters } from '../../lib/checkpoint/layout.ts'
import { loadConfig } from '../../lib/model/config.ts'
import { bundleLib, runFixture } from '../support/run_fixture.ts'
import { safetensorsBytes } from '../support/safetensors_bytes.ts'
import { tempFolder } from '../support/temp_folder.ts'

const CONFIG = {
  architectures: ['OpenMoeForCausalLM'],
  hidden_size: 512,
  intermediate_size: 1024,
  num_hidden_layers: 4,
  num_attention_heads: 8,
  head_dim: 64,
  num_experts: 16,
  moe_layer_interval: 2,
  vocab_size: 32000,
}
const SIMPLE: Record<string, string> = {
  embed_tokens: 'embed_tokens.weight',
  norm: 'norm.weight',
  input_norm: 'input_layernorm.weight',
  post_attention_norm: 'post_attention_layernorm.weight',
  pre_extra_mlp_norm: 'pre_extra_mlp_layernorm.weight',
  router: 'mlp.gate_weight',
  'experts.gate': 'mlp.experts.wi_gate',
  'experts.up': 'mlp.experts.wi_up',
  'experts.down': 'mlp.experts.wo',
}

/** f32 weights as one hole in a file: it has their size and takes no disk. */
async function writeHollowCheckpoint(folder: string): Promise<number> {
  writeFileSync(join(folder, 'config.json'), JSON.stringify(CONFIG))
  const { config } = await loadConfig(folder)
  const header: Record<string, object> = {}
  let end = 0
  for (const { key, role, shape } of canonicalParameters(config)) {
    const [, layer = '', part = key] = /^(layers\.\d+\.)?(.*)$/.exec(key) ?? []
    const projection = part.replace(/^(q|k|v|o)$/, 'self_attn.$1').replace(/$/, '_proj.weight')
    const name = key === 'lm_head' ? 'lm_head.weight' : `model.${layer}${SIMPLE[part] ?? projection}`
    const begin = end
    end += 4 * shape.reduce((a, b) => a * b, 1)
    const stored = role === 'experts' ? [shape[0], shape[2], shape[1]] : shape
    header[name] = { dtype: 'F32', shape: stored, data_offsets: [begin, end] }
  }
  const file = join(folder, 'model.safetensors')
  const bytes = safetensorsBytes(header)
  writeFileSync(file, bytes)
  truncateSync(file, bytes.length + end)
  return end
}

describe.runIf(process.platform === 'linux')('loading', () => {
  const temp = tempFolder()
  const lib = join(temp.path, 'openmoe.mjs')
  beforeAll(() => bundleLib(lib))

  it('takes the memory of the weights in their final dtype, and a few working buffers', async () => {
    const folder = temp.folder()
    const stored = await writeHollowCheckpoint(folder)
    const { code, stdout, stderr } = await runFixture('load_memory.mjs', lib, [folder])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { weights, peak } = JSON.parse(stdout) as { weights: number; peak: number }
    expect(stored).toBeGreaterThan(350e6)
    expect(weights / stored).toBeCloseTo(0.5, 1)
    // Holding one tensor whole beside its packed form would already take 67 MB more.
    expect(peak - weights).toBeLessThan(48e6)
  })
})
