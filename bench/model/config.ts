import type { OpenMoeConfig } from '../../lib/model/config.ts'
import type { ShapeName } from '../context.ts'

const SHAPES = {
  tiny: {
    hiddenSize: 256,
    intermediateSize: 256,
    layers: 4,
    heads: 4,
    kvHeads: 4,
    headDim: 64,
    experts: 16,
    moeEvery: 2,
    vocabSize: 4096,
  },
  base: {
    hiddenSize: 768,
    intermediateSize: 2048,
    layers: 12,
    heads: 12,
    kvHeads: 12,
    headDim: 64,
    experts: 16,
    moeEvery: 4,
    vocabSize: 256384,
  },
  '8b': {
    hiddenSize: 2048,
    intermediateSize: 8192,
    layers: 24,
    heads: 24,
    kvHeads: 24,
    headDim: 128,
    experts: 32,
    moeEvery: 6,
    vocabSize: 256384,
  },
} as const satisfies Record<ShapeName, object>

/** The configuration of the released model of that size, as far as speed is concerned. */
export function syntheticConfig(shape: ShapeName): OpenMoeConfig {
  const { hiddenSize, intermediateSize, layers, heads, kvHeads, headDim, experts, moeEvery, vocabSize } =
    SHAPES[shape]
  return {
    vocabSize,
    hiddenSize,
    intermediateSize,
    numHiddenLayers: layers,
    numAttentionHeads: heads,
    numKeyValueHeads: kvHeads,
    headDim,
    maxPositionEmbeddings: 2048,
    ropeTheta: 10000,
    rmsNormEps: 1e-6,
    numExperts: experts,
    moeLayerInterval: moeEvery,
    topK: 2,
    routerCapacityFactorTrain: 1.25,
    routerCapacityFactorEval: 2,
    routerMinCapacity: 4,
    routerDropTokens: true,
    routerAuxLossFactor: 0.01,
    routerZLossFactor: 0.0001,
    zLossFactor: 0.0001,
    labelSmoothing: 0.1,
    padTokenId: 0,
    bosTokenId: 0,
    eosTokenId: 1,
  }
}
