import { OpenMoeError } from '../errors.ts'
import { describe, FieldReader, type Fields } from './config_fields.ts'
import type { OpenMoeConfig, ParseConfigOptions, ParsedConfig } from './config.ts'

// Bounds on single fields and on products of them: beyond any model that could exist, and such that every size computed
// from a config (at most 2^50 parameters) is an exact integer and every table built from one (tensors, layers, experts) small.
const MOST = {
  vocab: 2 ** 24,
  hidden: 2 ** 16,
  intermediate: 2 ** 18,
  layers: 1024,
  heads: 1024,
  headDim: 1024,
  positions: 2 ** 22,
  experts: 2 ** 12,
  expertsOfAllLayers: 2 ** 14,
  headWidth: 2 ** 18,
  capacityFactor: 1000,
}
const INT32_MAX = 2 ** 31 - 1

/** Checks a parsed config.json of any of the three spellings (spec section 2). Warnings are for the caller to show. */
export function parseConfig(json: unknown, { file, tokenIds = {} }: ParseConfigOptions): ParsedConfig {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new OpenMoeError(
      'ERR_OPENMOE_CONFIG',
      `${file}: this is ${describe(json)}, expected a JSON object.`,
    )
  }
  const raw = json as Fields
  refuseOtherArchitectures(raw, file)
  const read = new FieldReader(raw, file)
  const sizes = readSizes(read)
  const config: OpenMoeConfig = {
    ...sizes,
    ropeTheta: readRopeTheta(read),
    rmsNormEps: readNormEps(read),
    ...readRouter(read, sizes.numHiddenLayers),
    routerAuxLossFactor: read.number('router_aux_loss_factor', { least: 0, most: 1e6, absent: 0.01 }),
    routerZLossFactor: read.number('router_z_loss_factor', { least: 0, most: 1e6, absent: 0.0001 }),
    zLossFactor: read.number('z_loss_factor', { least: 0, most: 1e6, absent: 0.01 }),
    labelSmoothing: read.number('label_smoothing', { least: 0, most: 0.999, absent: 0.001 }),
    ...readTokenIds(read, sizes.vocabSize, tokenIds),
  }
  refuseUnsupported(read)
  const torchDtype = read.text('torch_dtype') ?? read.text('dtype')
  if (torchDtype !== undefined) config.torchDtype = torchDtype
  return { config, warnings: read.warnings }
}

function readSizes(read: FieldReader) {
  const vocabSize = read.integer('vocab_size', { least: 2, most: MOST.vocab, absent: 256_384 })
  const hiddenSize = read.integer('hidden_size', { least: 1, most: MOST.hidden })
  const intermediateSize = read.integer('intermediate_size', { least: 1, most: MOST.intermediate })
  const numHiddenLayers = read.integer('num_hidden_layers', { least: 1, most: MOST.layers })
  const numAttentionHeads = read.integer('num_attention_heads', { least: 1, most: MOST.heads })
  const numKeyValueHeads = read.integer('num_key_value_heads', {
    least: 1,
    most: MOST.heads,
    absent: numAttentionHeads,
  })
  const quotient = hiddenSize / numAttentionHeads
  if (!read.has('head_dim') && !Number.isInteger(quotient)) {
    read.fail(
      `hidden_size ${hiddenSize} is not a multiple of num_attention_heads ${numAttentionHeads}, and head_dim is absent. Add head_dim.`,
    )
  }
  const headDim = read.integer('head_dim', { least: 2, most: MOST.headDim, absent: quotient })
  if (headDim % 2 !== 0) read.fail(`head_dim is ${headDim}, expected an even number: RoPE rotates pairs.`)
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    read.fail(
      `num_attention_heads ${numAttentionHeads} is not a multiple of num_key_value_heads ${numKeyValueHeads}.`,
    )
  }
  if (numAttentionHeads * headDim > MOST.headWidth) {
    read.fail(
      `num_attention_heads x head_dim is ${numAttentionHeads * headDim}, at most ${MOST.headWidth} is supported.`,
    )
  }
  const maxPositionEmbeddings = read.integer('max_position_embeddings', {
    least: 1,
    most: MOST.positions,
    absent: 2048,
  })
  return {
    vocabSize,
    hiddenSize,
    intermediateSize,
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings,
  }
}

function readRouter(read: FieldReader, layers: number) {
  const numExperts = read.integer('num_experts', { least: 1, most: MOST.experts, absent: 32 })
  const moeLayerInterval = read.integer('moe_layer_interval', { least: 1, most: MOST.layers, absent: 6 })
  const topK = read.integer('router_topk', { least: 1, most: MOST.experts, absent: 2, other: 'topk' })
  if (topK > numExperts) read.fail(`router_topk is ${topK}, but there are num_experts = ${numExperts}.`)
  if (topK !== 2)
    read.fail(`router_topk is ${topK}, only 2 is supported: every OpenMoE model is trained with 2.`)
  const moeLayers = Math.floor(layers / moeLayerInterval)
  if (moeLayers === 0) {
    read.fail(
      `moe_layer_interval ${moeLayerInterval} is larger than num_hidden_layers ${layers}, so no layer would have experts.`,
    )
  }
  if (moeLayers * numExperts > MOST.expertsOfAllLayers) {
    read.fail(
      `num_experts ${numExperts} in ${moeLayers} layers are ${moeLayers * numExperts} experts, at most ${MOST.expertsOfAllLayers} are supported.`,
    )
  }
  const factor = { least: 0.001, most: MOST.capacityFactor }
  return {
    numExperts,
    moeLayerInterval,
    topK,
    routerCapacityFactorTrain: read.number('router_capacity_factor_train', {
      ...factor,
      absent: 1.25,
      other: 'capacity_factor_train',
    }),
    routerCapacityFactorEval: read.number('router_capacity_factor_eval', {
      ...factor,
      absent: 2,
      other: 'capacity_factor_eval',
    }),
    routerMinCapacity: read.integer('router_min_capacity', {
      least: 0,
      most: INT32_MAX,
      absent: 4,
      other: 'min_capacity',
    }),
    routerDropTokens: read.flag('router_drop_tks', { absent: true, other: 'drop_tks' }),
  }
}

function readRopeTheta(read: FieldReader): number {
  const bounds = { least: 1, most: 1e12 }
  const nested = read.nested('rope_parameters')?.optionalNumber('rope_theta', bounds)
  const plain = read.optionalNumber('rope_theta', bounds)
  if (nested !== undefined && plain !== undefined && nested !== plain) {
    read.fail(`rope_theta is ${plain} and rope_parameters.rope_theta is ${nested}. Keep one of them.`)
  }
  const theta = plain ?? nested ?? 10_000
  if (theta !== 10_000) {
    read.warnings.push(
      `rope_theta is ${theta}; the OpenMoE reference code always uses 10000. Using ${theta}.`,
    )
  }
  return theta
}

function readNormEps(read: FieldReader): number {
  const bounds = { least: 0, most: 1 }
  const layerNorm = read.optionalNumber('layer_norm_epsilon', bounds)
  const rmsNorm = read.optionalNumber('rms_norm_eps', bounds)
  if (layerNorm !== undefined && rmsNorm !== undefined && layerNorm !== rmsNorm) {
    read.warnings.push(
      `rms_norm_eps ${rmsNorm} and layer_norm_epsilon ${layerNorm} differ. Using rms_norm_eps.`,
    )
  }
  return rmsNorm ?? layerNorm ?? 1e-6
}

function readTokenIds(
  read: FieldReader,
  vocabSize: number,
  known: { pad?: number; bos?: number; eos?: number },
) {
  const bounds = { least: 0, most: vocabSize - 1 }
  const stated = {
    pad: read.optionalInteger('pad_token_id', bounds),
    bos: read.optionalInteger('bos_token_id', bounds),
    eos: read.optionalInteger('eos_token_id', bounds),
  }
  // bos 1 and eos 2 are Llama's defaults, inherited by early config files: wrong for the umT5 vocabulary.
  const inherited =
    (stated.bos ?? 1) === 1 &&
    (stated.eos ?? 2) === 2 &&
    (stated.bos !== undefined || stated.eos !== undefined)
  const usual = inherited ? { bos: 0, eos: 1 } : { bos: stated.bos ?? 0, eos: stated.eos ?? 1 }
  const ids = {
    padTokenId: known.pad ?? stated.pad ?? 0,
    bosTokenId: known.bos ?? usual.bos,
    eosTokenId: known.eos ?? usual.eos,
  }
  for (const [name, id] of Object.entries(ids)) {
    if (!Number.isSafeInteger(id) || id < 0 || id >= vocabSize) {
      read.fail(`the tokenizer's ${name} is ${id}, outside the vocabulary of ${vocabSize}.`)
    }
  }
  for (const [name, said, used] of [
    ['pad_token_id', stated.pad, ids.padTokenId],
    ['bos_token_id', stated.bos, ids.bosTokenId],
    ['eos_token_id', stated.eos, ids.eosTokenId],
  ] as const) {
    if (said !== undefined && said !== used) {
      const why = inherited && name !== 'pad_token_id' ? 'an inherited Llama default' : "not the tokenizer's"
      read.warnings.push(`${name} is ${said}, ${why}. Using ${used}.`)
    }
  }
  return ids
}

function refuseUnsupported(read: FieldReader): void {
  const act = read.text('hidden_act') ?? 'swiglu'
  if (act !== 'swiglu') read.fail(`hidden_act is ${describe(act)}, only "swiglu" is supported.`)
  if (!read.flag('mlp_gated', { absent: true, other: 'gated' }))
    read.fail('mlp_gated is false, only true is supported.')
  if (read.flag('attention_bias', { absent: false }))
    read.fail('attention_bias is true, only false is supported.')
  if (read.flag('tie_word_embeddings', { absent: false })) {
    read.fail('tie_word_embeddings is true; OpenMoE has an lm_head.weight of its own. Set it to false.')
  }
  const parallel = read.optionalInteger('pretraining_tp', { least: 1, most: INT32_MAX })
  if (parallel !== undefined && parallel > 1) read.fail(`pretraining_tp is ${parallel}, only 1 is supported.`)
  if (read.has('rope_scaling'))
    read.warnings.push('rope_scaling is set; OpenMoE does not scale RoPE. Ignoring it.')
}

/**
 * A `model_type` of "llama" is no Llama: the released OpenMoE configs say so. `architectures` decides where it names
 * OpenMoE; where it is absent or says Llama too, the fields that only a mixture of experts has do.
 */
function refuseOtherArchitectures(raw: Fields, file: string): void {
  const value = Object.hasOwn(raw, 'architectures') ? raw['architectures'] : undefined
  const names = (Array.isArray(value) ? value : [value]).filter(
    (name): name is string => typeof name === 'string',
  )
  if (names.some((name) => /openmoe/i.test(name))) return
  const type = Object.hasOwn(raw, 'model_type') ? raw['model_type'] : undefined
  const couldBe =
    names.every((name) => /^Llama/.test(name)) && (type == null || type === 'llama' || type === 'openmoe')
  const hasExperts = ['moe_layer_interval', 'num_experts'].some(
    (name) => Object.hasOwn(raw, name) && raw[name] != null,
  )
  if (couldBe && (hasExperts || type === 'openmoe')) return
  const found = `architectures ${describe(value)}, model_type ${describe(type)}`
  const lacks = hasExperts ? '' : ', no moe_layer_interval or num_experts'
  throw new OpenMoeError(
    'ERR_OPENMOE_NOT_OPENMOE',
    `${file}: this is no OpenMoE model: found ${found}${lacks}. openmoe runs only OpenMoE checkpoints ` +
      '(architectures "OpenMoeForCausalLM", for example OrionZheng/openmoe-8b).',
  )
}
