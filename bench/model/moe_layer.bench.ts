// One mixture-of-experts layer alone: router, top-2 gating, permutation, grouped GEMMs, un-permutation.
import { type HostTensor, type MatrixLayout, tensor } from '#lib/tensor'
import { moe } from '#lib/layers/moe'
import { type Group, type Lab, type OpenGroup, tracking } from '../cases.ts'
import { i32, randomHost } from '../ops/random.ts'
import { randomMatrix, uniformWeights } from '../ops/random_matrix.ts'
import type { Work } from '../roofline.ts'
import type { TypedShape } from '../shapes.ts'

const TOP_K = 2
// Other tokens each time: which experts they share decides how much is read.
const INPUTS = 8

export const moeLayerGroup: Group = { name: 'moe_layer', open: openMoeLayer }

async function openMoeLayer(lab: Lab, shape: TypedShape): Promise<OpenGroup> {
  const { hiddenSize, intermediateSize, numExperts, dtype } = shape
  const { device, freeAll } = tracking(lab.device)
  const matrix = (outFeatures: number, inFeatures: number, layout: MatrixLayout) =>
    randomMatrix(device, dtype, { count: numExperts, outFeatures, inFeatures, layout })
  const router = uniformWeights('f32', numExperts * hiddenSize, hiddenSize)
  const weights = {
    router: await device.upload(tensor(router, [numExperts, hiddenSize])),
    gateUp: await matrix(3 * intermediateSize, hiddenSize, 'gate_up'),
    down: await matrix(hiddenSize, intermediateSize, 'rows'),
  }
  const evictor = await lab.evict()
  const record = (tokens: number) =>
    device.compile(
      (p) => {
        p.scope('evict', () => evictor.record(p)) // or the experts of the last run are in the caches
        const x = p.input('x', 'f32', [tokens, hiddenSize])
        const groups = { groupOffsets: p.use(i32([0, tokens])), capacity: p.use(i32([-1])) }
        return p.scope('layer', () => [moe(p, { x }, weights, { topK: TOP_K, numExperts }, groups, 'moe')])
      },
      { taps: ['moe.topk_index'] },
    )
  const expertBytes = (weights.gateUp.bytes + weights.down.bytes) / numExperts
  const cases = shape.tokens.map((tokens) => {
    let runs = 0
    let touched = 0
    const work = (): Work => ({
      bytes: Math.round((touched / Math.max(1, runs)) * expertBytes) + weights.router.bytes,
      flops: 2 * tokens * hiddenSize * (numExperts + TOP_K * 4 * intermediateSize),
    })
    const prepare = async () => {
      const program = record(tokens)
      const inputs = Array.from({ length: INPUTS }, () => randomHost('f32', [tokens, hiddenSize]).data)
      const sample = async (): Promise<number> => {
        const { taps, profile = [] } = await program.run({ x: inputs[runs % INPUTS]! }, { profile: true })
        touched += distinct(taps.get('moe.topk_index')!)
        runs++
        const ofLayer = profile.filter(({ label }) => label.startsWith('layer.'))
        return ofLayer.reduce((sum, { microseconds }) => sum + microseconds, 0)
      }
      return Promise.resolve({ sample, dispose: () => program.dispose() })
    }
    return { name: `moe_layer t=${tokens}`, tokens, work, prepare }
  })
  return { cases, close: freeAll }
}

const distinct = ({ data }: HostTensor): number => new Set(data).size
