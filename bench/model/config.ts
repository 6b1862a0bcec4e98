import type { OpenMoeConfig } from '#lib/model/config'
import type { BenchShape } from '../shapes.ts'

/** The configuration of a model of that size, as far as speed is concerned. */
export function syntheticConfig(shape: BenchShape): OpenMoeConfig {
  return {
    vocabSize: shape.vocabSize,
    hiddenSize: shape.hiddenSize,
    intermediateSize: shape.intermediateSize,
    numHiddenLayers: shape.layers,
    numAttentionHeads: shape.numHeads,
    numKeyValueHeads: shape.numKvHeads,
    headDim: shape.headDim,
    maxPositionEmbeddings: Math.max(2048, shape.context + 1, ...shape.prompts),
    ropeTheta: 10000,
    rmsNormEps: 1e-6,
    numExperts: shape.numExperts,
    moeLayerInterval: shape.moeLayerInterval,
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
