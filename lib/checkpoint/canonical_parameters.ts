import { isMoeLayer, type OpenMoeConfig } from '../model/config.ts'

export type ParameterRole = 'embedding' | 'norm' | 'matrix' | 'experts' | 'router'

/** One weight the model needs, in our own words and orientation: matrices [out, in], experts [experts, out, in]. */
export interface CanonicalParameter {
  key: string // 'embed_tokens', 'norm', 'lm_head', 'layers.3.experts.gate', ...
  role: ParameterRole
  shape: number[]
  sides: Side[] // what config.json makes of each side, for messages
}

/** A side of a shape as config.json gives it: `times` x the named field (heads count head_dim each). */
export interface Side {
  field: string
  times: number
  value: number
}

/** Everything the model needs, in the order it is used: embedding, the layers, norm, head. */
export function canonicalParameters(config: OpenMoeConfig): CanonicalParameter[] {
  const side = sidesOf(config)
  const list: CanonicalParameter[] = []
  const add = (key: string, role: ParameterRole, sides: Side[]): void => {
    list.push({ key, role, shape: sides.map(({ value }) => value), sides })
  }
  add('embed_tokens', 'embedding', [side.vocab, side.hidden])
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const layer = `layers.${i}`
    const mlp = (name: string): void => {
      add(`${layer}.${name}.gate`, 'matrix', [side.gate, side.hidden])
      add(`${layer}.${name}.up`, 'matrix', [side.intermediate, side.hidden])
      add(`${layer}.${name}.down`, 'matrix', [side.hidden, side.intermediate])
    }
    add(`${layer}.input_norm`, 'norm', [side.hidden])
    add(`${layer}.q`, 'matrix', [side.heads, side.hidden])
    add(`${layer}.k`, 'matrix', [side.kvHeads, side.hidden])
    add(`${layer}.v`, 'matrix', [side.kvHeads, side.hidden])
    add(`${layer}.o`, 'matrix', [side.hidden, side.heads])
    add(`${layer}.post_attention_norm`, 'norm', [side.hidden])
    if (!isMoeLayer(config, i)) {
      mlp('mlp')
      continue
    }
    add(`${layer}.router`, 'router', [side.experts, side.hidden])
    add(`${layer}.experts.gate`, 'experts', [side.experts, side.gate, side.hidden])
    add(`${layer}.experts.up`, 'experts', [side.experts, side.intermediate, side.hidden])
    add(`${layer}.experts.down`, 'experts', [side.experts, side.hidden, side.intermediate])
    add(`${layer}.pre_extra_mlp_norm`, 'norm', [side.hidden])
    mlp('extra_mlp')
  }
  add('norm', 'norm', [side.hidden])
  add('lm_head', 'matrix', [side.vocab, side.hidden])
  return list
}

function sidesOf(config: OpenMoeConfig) {
  const side = (field: string, times: number, one: number): Side => ({ field, times, value: times * one })
  return {
    vocab: side('vocab_size', 1, config.vocabSize),
    hidden: side('hidden_size', 1, config.hiddenSize),
    intermediate: side('intermediate_size', 1, config.intermediateSize),
    gate: side('intermediate_size', 2, config.intermediateSize),
    experts: side('num_experts', 1, config.numExperts),
    heads: side('head_dim', config.numAttentionHeads, config.headDim),
    kvHeads: side('head_dim', config.numKeyValueHeads, config.headDim),
  }
}
