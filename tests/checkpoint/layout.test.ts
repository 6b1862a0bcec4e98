import { describe, expect, it } from 'vitest'
import { canonicalParameters, detectLayout, resolveParameters } from '../../lib/checkpoint/layout.ts'
import { openCheckpoint } from '../../lib/checkpoint/open_checkpoint.ts'
import {
  contiguousStrides,
  type CheckpointIndex,
  type TensorEntry,
} from '../../lib/checkpoint/tensor_index.ts'
import { loadConfig, type OpenMoeConfig } from '../../lib/model/config.ts'
import { countParameters } from '../../lib/model/parameter_count.ts'
import { expectError } from '../support/expect_error.ts'
import { digestWeights, goldenCase, readMatrix } from '../support/golden.ts'

// sha256 of all weights in canonical order and orientation as float32, computed with numpy through the loader of
// shared/reference/openmoe_reference.py (read_checkpoint, to_original_layout, experts transposed to [E, out, in]).
const NUMPY_DIGESTS: Record<string, string> = {
  tiny_dropless: '1ea0b5bf613fe29d80b49b0242b47cdd7d7e5fabd48f9e4431de2b3630293eb2',
  tiny_drops: '2f184fd146ff432df4d22a4a78128081f11d56b2bf27bf957e95b021720fb35a',
  tiny_bf16: '8849ef928709305f60949220b50247232361e4d8e6e4a247436b68c9a93ddeb1',
  tiny_openmoe_pt: '8300ec985380c80fac1cffdbe51b3e2a854b7101b3efac34cea46f83b18e9ae6',
  tiny_sharded: 'd223fea7cab06ab7dc8b07c45e20cb98f8067d525aacdd37f72a7b4d7ce4c55a',
  tiny_bin_sharded: '4aa03e5bb81a4bd86e1d027b70c654c1fcc1c13ce27a8e3e21ddb026b06ffda9',
  batch3_drops: 'd4c998ad9dcc591318e7254041e38d440bd715af09bb1ebd56367fa60af8a660',
  ragged: 'f286d9ff9724a64de22639999891199bdc564038d6c0fe3cf9505be9afef5e8c',
}

async function load(name: string): Promise<{ index: CheckpointIndex; config: OpenMoeConfig }> {
  const { config } = await loadConfig(goldenCase(name))
  return { index: await openCheckpoint(goldenCase(name)), config }
}

/** A copy of an index with some entries changed (undefined removes). */
function change(
  index: CheckpointIndex,
  changes: Record<string, Partial<TensorEntry> | undefined>,
): CheckpointIndex {
  const tensors = new Map(index.tensors)
  for (const [name, fields] of Object.entries(changes)) {
    if (!fields) tensors.delete(name)
    else {
      const base = tensors.get(name) ?? [...tensors.values()][0]!
      tensors.set(name, { ...base, name, ...fields })
    }
  }
  return { ...index, tensors }
}

describe('resolveParameters', () => {
  it.each(Object.keys(NUMPY_DIGESTS))('reads the same weights from %s as numpy does', async (name) => {
    const { index, config } = await load(name)
    expect(digestWeights(resolveParameters(index, config), config)).toBe(NUMPY_DIGESTS[name])
  })

  it('gives every view the shape its parameter has', async () => {
    const { index, config } = await load('tiny_openmoe_pt')
    const parameters = resolveParameters(index, config)
    expect([...parameters.keys()]).toEqual(canonicalParameters(config).map(({ key }) => key))
    for (const { shape, matrices, role } of parameters.values()) {
      expect(matrices.length).toBe(role === 'experts' ? config.numExperts : 1)
      for (const { rows, cols } of matrices)
        expect([rows, cols]).toEqual(role === 'norm' ? [1, shape[0]] : shape.slice(-2))
    }
    expect(parameters.get('layers.1.experts.down')!.tensors[7]).toBe(
      'model.layers.1.mlp.experts.7.down_proj.weight',
    )
  })

  it('turns stacked experts into [out, in] views without copying', async () => {
    const { index, config } = await load('tiny_drops')
    const stacked = index.tensors.get('model.layers.1.mlp.experts.wi_gate')!
    const view = resolveParameters(index, config).get('layers.1.experts.gate')!.matrices[2]!
    expect(view).toMatchObject({
      rows: 48,
      cols: 48,
      rowStride: 1,
      colStride: 48,
      offset: stacked.offset + 2 * 48 * 48 * 4,
    })
  })

  it('passes the strides of a permuted .bin view on', async () => {
    const { index, config } = await load('tiny_bin_sharded')
    const [head] = resolveParameters(index, config).get('lm_head')!.matrices
    expect(head).toMatchObject({ rows: 96, cols: 48, rowStride: 1, colStride: 96 })
    expect(readMatrix(head!).every(Number.isFinite)).toBe(true)
  })

  it('names the layouts by their routers', async () => {
    expect(detectLayout((await load('tiny_drops')).index)).toBe('original')
    expect(detectLayout((await load('tiny_openmoe_pt')).index)).toBe('openmoe-pt')
  })

  it('ignores RoPE tables that exporters leave behind', async () => {
    const { index, config } = await load('tiny_drops')
    const names = ['inv_freq', 'sin_cached', 'cos_cached'].map(
      (name) => `model.layers.0.self_attn.rotary_emb.${name}`,
    )
    expect(
      resolveParameters(change(index, Object.fromEntries(names.map((name) => [name, {}]))), config).size,
    ).toBe(49)
  })
})

describe('canonicalParameters', () => {
  it('adds up to the parameter count', async () => {
    const { config } = await load('tiny_drops')
    const elements = canonicalParameters(config).map(({ shape }) => shape.reduce((a, b) => a * b))
    expect(elements.reduce((a, b) => a + b)).toBe(countParameters(config).total)
  })

  it('has the 239 tensors of the 8B', async () => {
    const { config } = await load('tiny_drops')
    expect(canonicalParameters({ ...config, numHiddenLayers: 24, moeLayerInterval: 6 }).length).toBe(239)
  })
})

describe('a checkpoint that does not fit its config', () => {
  const SHAPE = 'ERR_OPENMOE_TENSOR_SHAPE'
  const MISSING = 'ERR_OPENMOE_TENSOR_MISSING'

  const configs: [string, Partial<OpenMoeConfig>, RegExp][] = [
    [
      'intermediate_size',
      { intermediateSize: 32 },
      /gate_proj\.weight" is \[48, 48\], expected \[64, 48\] = \[2 x intermediate_size, hidden_size\]: contradicts intermediate_size 32, the file has 24/,
    ],
    [
      'head_dim',
      { headDim: 32 },
      /q_proj\.weight" is \[48, 48\], expected \[96, 48\] = \[3 x head_dim, hidden_size\]: contradicts head_dim 32, the file has 16 \(or the number of heads: heads x head_dim is 48/,
    ],
    ['num_experts', { numExperts: 16 }, /contradicts num_experts 16, the file has 8/],
    [
      'vocab_size',
      { vocabSize: 256_384 },
      /embed_tokens\.weight" is \[96, 48\], expected \[256384, 48\] = \[vocab_size, hidden_size\].*the file has 96/,
    ],
    ['hidden_size', { hiddenSize: 64 }, /49 tensors of another shape/],
  ]
  it.each(configs)('names %s, both shapes and the value that would fit', async (_, over, message) => {
    const { index, config } = await load('tiny_drops')
    await expectError(() => resolveParameters(index, { ...config, ...over }), SHAPE, message)
  })

  it('lists five examples and the number of the rest', async () => {
    const { index, config } = await load('tiny_drops')
    const text = await expectError(
      () => resolveParameters(index, { ...config, intermediateSize: 32 }),
      SHAPE,
      /and 13 more/,
    )
    expect(text.match(/expected \[/g)).toHaveLength(5)
  })

  const structures: [string, string, Partial<OpenMoeConfig>, RegExp][] = [
    [
      'more layers',
      'tiny_drops',
      { numHiddenLayers: 6 },
      /config\.json says num_hidden_layers 6, the file has 4/,
    ],
    [
      'another interval',
      'tiny_drops',
      { moeLayerInterval: 4 },
      /says moe_layer_interval 4, the file has routers in layers 1, 3/,
    ],
    ['one more layer', 'tiny_openmoe_pt', { numHiddenLayers: 5 }, /num_hidden_layers 5, the file has 4/],
  ]
  it.each(structures)('explains %s in the config', async (_, name, over, message) => {
    const { index, config } = await load(name)
    await expectError(() => resolveParameters(index, { ...config, ...over }), MISSING, message)
  })

  it('explains fewer layers in the config as surplus tensors', async () => {
    const { index, config } = await load('tiny_drops')
    await expectError(
      () => resolveParameters(index, { ...config, numHiddenLayers: 2 }),
      'ERR_OPENMOE_TENSOR_SURPLUS',
      /23 tensors.*num_hidden_layers 2, the file has 4/,
    )
  })

  it('names a missing tensor', async () => {
    const { index, config } = await load('tiny_drops')
    const without = change(index, { 'model.norm.weight': undefined })
    await expectError(
      () => resolveParameters(without, config),
      MISSING,
      /1 tensor missing: "model\.norm\.weight"\. Download/,
    )
  })

  it('names a missing expert', async () => {
    const { index, config } = await load('tiny_openmoe_pt')
    const without = change(index, { 'model.layers.3.mlp.experts.5.up_proj.weight': undefined })
    await expectError(
      () => resolveParameters(without, config),
      MISSING,
      /"model\.layers\.3\.mlp\.experts\.5\.up_proj\.weight"/,
    )
  })

  it('names a surplus tensor, also one called __proto__', async () => {
    const { index, config } = await load('tiny_drops')
    const tensors = new Map(index.tensors).set('__proto__', index.tensors.get('model.norm.weight')!)
    await expectError(
      () => resolveParameters({ ...index, tensors }, config),
      'ERR_OPENMOE_TENSOR_SURPLUS',
      /1 tensor .*"__proto__"/,
    )
    const bias = change(index, { 'model.layers.0.self_attn.q_proj.bias': {} })
    await expectError(() => resolveParameters(bias, config), 'ERR_OPENMOE_TENSOR_SURPLUS', /q_proj\.bias/)
  })

  it('refuses another rank and shows both shapes', async () => {
    const { index, config } = await load('tiny_drops')
    const shape = [1, 48]
    const changed = change(index, { 'model.norm.weight': { shape, strides: contiguousStrides(shape) } })
    await expectError(
      () => resolveParameters(changed, config),
      SHAPE,
      /"model\.norm\.weight" is \[1, 48\], expected \[48\] = \[hidden_size\]/,
    )
  })

  it('refuses weights of another dtype', async () => {
    const { index, config } = await load('tiny_drops')
    const changed = change(index, { 'model.norm.weight': { dtype: 'I8' } })
    await expectError(
      () => resolveParameters(changed, config),
      'ERR_OPENMOE_DTYPE',
      /is I8, weights must be F32, BF16 or F16/,
    )
  })

  it('refuses checkpoints of other architectures, saying what they hold', async () => {
    const { index } = await load('tiny_drops')
    const only = (...names: string[]) => ({
      ...index,
      tensors: new Map(names.map((name) => [name, index.tensors.get('model.norm.weight')!])),
    })
    const NOT = 'ERR_OPENMOE_NOT_OPENMOE'
    await expectError(
      () => detectLayout(only('model.layers.0.mlp.up_proj.weight')),
      NOT,
      /no OpenMoE router.*1 tensors: "model\.layers\.0\.mlp\.up_proj\.weight"/,
    )
    await expectError(
      () => detectLayout(only('model.layers.0.mlp.gate.weight', 'x')),
      NOT,
      /no extra_mlp tensors/,
    )
    await expectError(
      () => detectLayout(only('model.layers.1.mlp.gate.weight', 'model.layers.0.mlp.gate_weight')),
      NOT,
      /mixes/,
    )
    await expectError(() => detectLayout(only()), NOT, /holds 0 tensors/)
  })
})
