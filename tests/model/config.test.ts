import { describe, expect, it } from 'vitest'
import fc from 'fast-check'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadConfig, parseConfig } from '../../lib/model/config.ts'
import { countParameters } from '../../lib/model/parameter_count.ts'
import { expectError } from '../support/expect_error.ts'
import { goldenCase } from '../support/golden.ts'
import { BASE, MINIMAL, RELEASED_8B } from '../support/released_configs.ts'
import { tempFolder } from '../support/temp_folder.ts'

const temp = tempFolder()
const CONFIG = 'ERR_OPENMOE_CONFIG'
const NOT = 'ERR_OPENMOE_NOT_OPENMOE'
const parse = (json: unknown, tokenIds?: { pad?: number; bos?: number; eos?: number }) =>
  parseConfig(json, { file: 'm/config.json', ...(tokenIds && { tokenIds }) })

describe('parseConfig', () => {
  it('reads the released 8B without a warning', () => {
    const { config, warnings } = parse(RELEASED_8B)
    expect(warnings).toEqual([])
    expect(config).toEqual({
      vocabSize: 256384,
      hiddenSize: 2048,
      intermediateSize: 8192,
      numHiddenLayers: 24,
      numAttentionHeads: 24,
      numKeyValueHeads: 24,
      headDim: 128,
      maxPositionEmbeddings: 2048,
      ropeTheta: 10000,
      rmsNormEps: 1e-6,
      numExperts: 32,
      moeLayerInterval: 6,
      topK: 2,
      routerCapacityFactorTrain: 1.25,
      routerCapacityFactorEval: 2,
      routerMinCapacity: 4,
      routerDropTokens: true,
      routerAuxLossFactor: 0.01,
      routerZLossFactor: 0.0001,
      zLossFactor: 0.01,
      labelSmoothing: 0.001,
      padTokenId: 0,
      bosTokenId: 0,
      eosTokenId: 1,
      torchDtype: 'float32',
    })
  })

  it('fills in the defaults, taking null for absent', () => {
    const nulls = Object.fromEntries(Object.keys(RELEASED_8B).map((key) => [key, null]))
    const { config } = parse({ ...nulls, ...MINIMAL })
    expect(config).toEqual({ ...parse(MINIMAL).config })
    expect(config).toEqual({
      vocabSize: 256384,
      hiddenSize: 64,
      intermediateSize: 96,
      numHiddenLayers: 6,
      numAttentionHeads: 4,
      numKeyValueHeads: 4,
      headDim: 16,
      maxPositionEmbeddings: 2048,
      ropeTheta: 10000,
      rmsNormEps: 1e-6,
      numExperts: 32,
      moeLayerInterval: 6,
      topK: 2,
      routerCapacityFactorTrain: 1.25,
      routerCapacityFactorEval: 2,
      routerMinCapacity: 4,
      routerDropTokens: true,
      routerAuxLossFactor: 0.01,
      routerZLossFactor: 0.0001,
      zLossFactor: 0.01,
      labelSmoothing: 0.001,
      padTokenId: 0,
      bosTokenId: 0,
      eosTokenId: 1,
    })
  })

  it('reads the original spelling', () => {
    const { config } = parse({
      ...MINIMAL,
      topk: 2,
      capacity_factor_train: 1.5,
      capacity_factor_eval: 3,
      min_capacity: 8,
      drop_tks: false,
      gated: true,
      layer_norm_epsilon: 1e-5,
    })
    expect(config).toMatchObject({
      topK: 2,
      routerCapacityFactorTrain: 1.5,
      routerCapacityFactorEval: 3,
      routerMinCapacity: 8,
      routerDropTokens: false,
      rmsNormEps: 1e-5,
    })
  })

  it('takes both spellings when they agree', () => {
    expect(
      parse({ ...MINIMAL, topk: 2, router_topk: 2, drop_tks: false, router_drop_tks: false }).warnings,
    ).toEqual([])
  })

  it.each([
    ['topk', 'router_topk', 2, 3],
    ['capacity_factor_train', 'router_capacity_factor_train', 1, 2],
    ['capacity_factor_eval', 'router_capacity_factor_eval', 1, 2],
    ['min_capacity', 'router_min_capacity', 4, 8],
    ['drop_tks', 'router_drop_tks', true, false],
    ['gated', 'mlp_gated', true, false],
  ])('refuses %s and %s that contradict each other', async (one, other, a, b) => {
    await expectError(
      () => parse({ ...MINIMAL, [one]: a, [other]: b }),
      CONFIG,
      new RegExp(`${other} is .*${one} is .*keep one`),
    )
  })

  it('lets rms_norm_eps win over layer_norm_epsilon, saying so', () => {
    const { config, warnings } = parse({ ...MINIMAL, rms_norm_eps: 1e-5, layer_norm_epsilon: 1e-6 })
    expect(config.rmsNormEps).toBe(1e-5)
    expect(warnings).toEqual([expect.stringMatching(/Using rms_norm_eps/)])
  })

  it('finds rope_theta in rope_parameters, and warns when it is not 10000', async () => {
    const { config, warnings } = parse({ ...MINIMAL, rope_parameters: { rope_theta: 500 } })
    expect([config.ropeTheta, warnings.length]).toEqual([500, 1])
    await expectError(
      () => parse({ ...MINIMAL, rope_theta: 10000, rope_parameters: { rope_theta: 500 } }),
      CONFIG,
      /keep one/i,
    )
  })

  it('replaces the inherited Llama ids 1 and 2 by 0 and 1, saying so', () => {
    const { config, warnings } = parse({ ...BASE, bos_token_id: 1, eos_token_id: 2 })
    expect([config.bosTokenId, config.eosTokenId]).toEqual([0, 1])
    expect(warnings).toEqual([
      expect.stringMatching(/bos_token_id is 1, an inherited Llama default\. Using 0/),
      expect.stringMatching(/eos_token_id is 2, an inherited Llama default\. Using 1/),
    ])
  })

  it('lets the ids of the tokenizer win', async () => {
    const { config, warnings } = parse(
      { ...BASE, bos_token_id: 1, eos_token_id: 2 },
      { pad: 0, bos: 1, eos: 2 },
    )
    expect([config.bosTokenId, config.eosTokenId, warnings]).toEqual([1, 2, []])
    expect(parse(BASE, { eos: 5 })).toMatchObject({
      config: { eosTokenId: 5 },
      warnings: [expect.stringMatching(/not the tokenizer/)],
    })
    await expectError(() => parse(BASE, { eos: 300_000 }), CONFIG, /outside the vocabulary/)
  })

  it('keeps other ids as they are', () => {
    expect(parse({ ...BASE, bos_token_id: 3, eos_token_id: 4, pad_token_id: 5 }).config).toMatchObject({
      bosTokenId: 3,
      eosTokenId: 4,
      padTokenId: 5,
    })
  })

  it('allows hidden_size that is no multiple of the heads, as in the 8B', () => {
    expect(2048 % RELEASED_8B.num_attention_heads).not.toBe(0)
    expect(parse(RELEASED_8B).config.headDim).toBe(128)
  })
})

describe('a config that is refused', () => {
  // prettier-ignore
  const rows: [string, object, RegExp][] = [
    ...['hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads'].map((field): [string, object, RegExp] => [`no ${field}`, { [field]: null }, new RegExp(`${field} is missing`)]),
    ...['vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads', 'num_key_value_heads', 'head_dim', 'max_position_embeddings', 'num_experts', 'moe_layer_interval', 'router_topk'].flatMap((field) => [0, -1, 1e9, 1.5, 1e300, Infinity, -Infinity, NaN, '4', [4], {}, true].map((value): [string, object, RegExp] => [`${field} ${JSON.stringify(value)}`, { [field]: value }, new RegExp(`${field} is .*expected`)])),
    ['1e999', JSON.parse('{"rope_theta":1e999}') as object, /rope_theta is Infinity/],
    ['an odd head_dim', { head_dim: 17 }, /even number/],
    ['heads that are no multiple of the kv heads', { num_key_value_heads: 3 }, /not a multiple of num_key_value_heads 3/],
    ['hidden_size that the heads do not divide, without head_dim', { num_attention_heads: 3 }, /Add head_dim/],
    ['heads x head_dim too wide', { num_attention_heads: 1024, head_dim: 1024 }, /num_attention_heads x head_dim/],
    ['a top-k of 1', { router_topk: 1 }, /only 2 is supported/],
    ['a top-k of 4', { router_topk: 4 }, /only 2 is supported/],
    ['a top-k beyond the experts', { num_experts: 1 }, /router_topk is 2, but there are num_experts = 1/],
    ['no MoE layer', { moe_layer_interval: 7 }, /no layer would have experts/],
    ['too many experts in all', { num_experts: 4096, moe_layer_interval: 1 }, /at most 16384/],
    ['another activation', { hidden_act: 'silu' }, /hidden_act is "silu", only "swiglu"/],
    ['an ungated MLP', { mlp_gated: false }, /mlp_gated is false/],
    ['attention_bias', { attention_bias: true }, /attention_bias is true/],
    ['tied embeddings', { tie_word_embeddings: true }, /lm_head\.weight of its own/],
    ['tensor parallel pretraining', { pretraining_tp: 2 }, /pretraining_tp is 2/],
    ['a flag that is a number', { router_drop_tks: 1 }, /expected true or false/],
    ['an activation that is a number', { hidden_act: 1 }, /expected a string/],
    ['a capacity factor of 0', { router_capacity_factor_eval: 0 }, /expected 0\.001 to 1000/],
    ['a huge capacity factor', { router_capacity_factor_eval: 1e9 }, /expected 0\.001 to 1000/],
    ['a negative min capacity', { router_min_capacity: -1 }, /router_min_capacity is -1/],
    ['a label smoothing of 1', { label_smoothing: 1 }, /label_smoothing is 1/],
    ['a negative norm epsilon', { rms_norm_eps: -1e-6 }, /rms_norm_eps/],
    ['a token id beyond the vocabulary', { eos_token_id: 256_384 }, /eos_token_id is 256384, expected 0 to 256383/],
    ['several eos ids', { eos_token_id: [1, 2] }, /eos_token_id is \[1, 2\]/],
    ['rope_parameters that are no object', { rope_parameters: [1] }, /rope_parameters is \[1\]/],
  ]
  it.each(rows)('has %s', async (_, over, message) => {
    const text = await expectError(() => parse({ ...MINIMAL, ...over }), CONFIG, message)
    expect(text).toContain('m/config.json')
  })

  it.each([[null], [[]], [3], ['x']])('is %j', async (json) => {
    await expectError(() => parse(json), CONFIG, /expected a JSON object/)
  })

  it('never leaves a number unchecked, whatever the fields hold', () => {
    const value = fc.oneof(fc.double(), fc.integer(), fc.constantFrom(null, true, 'x', 0, 1, 2, 64, [], {}))
    const fields = fc.dictionary(
      fc.constantFrom(...Object.keys(RELEASED_8B), '__proto__', 'constructor'),
      value,
    )
    fc.assert(
      fc.property(fields, (over) => {
        try {
          const { config } = parse({ ...BASE, ...over, architectures: ['OpenMoeForCausalLM'] })
          for (const size of Object.values(countParameters(config)))
            expect(Number.isSafeInteger(size)).toBe(true)
        } catch (error) {
          expect(error).toMatchObject({ code: CONFIG })
        }
      }),
      { numRuns: 3000 },
    )
  })
})

describe('the architecture', () => {
  const size = { ...MINIMAL, architectures: undefined }
  // prettier-ignore
  const accepted: [string, object][] = [
    ['OpenMoeForCausalLM', { architectures: ['OpenMoeForCausalLM'] }],
    ['HFOpenMoeForCausalLM', { architectures: ['HFOpenMoeForCausalLM'], model_type: 'openmoe' }],
    ['no architectures but moe_layer_interval', { moe_layer_interval: 6 }],
    ['no architectures but num_experts', { num_experts: 8, model_type: 'llama' }],
    ['LlamaForCausalLM with experts', { architectures: ['LlamaForCausalLM'], model_type: 'llama', moe_layer_interval: 6 }],
    ['model_type openmoe alone', { model_type: 'openmoe' }],
  ]
  it.each(accepted)('is OpenMoE: %s', (_, over) => {
    expect(parse({ ...size, ...over }).config.hiddenSize).toBe(64)
  })

  // prettier-ignore
  const refused: [string, object, RegExp][] = [
    [
      'a Llama',
      { architectures: ['LlamaForCausalLM'], model_type: 'llama' },
      /found architectures \["LlamaForCausalLM"\], model_type "llama", no moe_layer_interval/,
    ],
    ['a Qwen MoE', { architectures: ['Qwen2MoeForCausalLM'], model_type: 'qwen2_moe', num_experts: 60 }, /Qwen2Moe/],
    ['a Mixtral', { architectures: ['MixtralForCausalLM'], num_local_experts: 8 }, /Mixtral/],
    ['another architecture that calls itself llama', { architectures: ['XForCausalLM'], model_type: 'llama', num_experts: 8 }, /XForCausalLM/],
    ['another model_type with experts', { model_type: 'olmoe', num_experts: 64 }, /model_type "olmoe"/],
    ['nothing at all', {}, /architectures absent, model_type absent/],
    ['architectures of another type', { architectures: 7 }, /architectures 7/],
  ]
  it.each(refused)('is not OpenMoE: %s', async (_, over, message) => {
    await expectError(() => parse({ ...size, ...over }), NOT, message)
  })
})

describe('loadConfig', () => {
  it.each(['tiny_dropless', 'tiny_bf16', 'tiny_openmoe_pt', 'tiny_bin_sharded'])(
    'reads %s without a warning',
    async (name) => {
      const { config, warnings } = await loadConfig(goldenCase(name))
      expect(config).toMatchObject({
        vocabSize: 96,
        hiddenSize: 48,
        numExperts: 8,
        moeLayerInterval: 2,
        headDim: 16,
      })
      expect(config.routerDropTokens).toBe(name !== 'tiny_dropless')
      expect(warnings).toEqual([])
    },
  )

  it('says what is wrong with the file', async () => {
    await expectError(loadConfig(join(temp.path, 'none')), 'ERR_OPENMOE_MODEL_NOT_FOUND', /no such file/)
    const broken = temp.folder()
    writeFileSync(join(broken, 'config.json'), '{"a":')
    await expectError(loadConfig(broken), CONFIG, /no JSON/)
    writeFileSync(join(broken, 'config.json'), ' '.repeat(2 ** 20 + 1))
    await expectError(loadConfig(broken), CONFIG, /at most 1048576/)
    writeFileSync(join(broken, 'config.json'), '['.repeat(100_000))
    await expectError(loadConfig(broken), CONFIG, /no JSON/)
  })
})
