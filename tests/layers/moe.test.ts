// The MoE branch alone, against the golden cases: its input is computed here, in f64, from what the reference recorded
// after the block before.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ParameterSource, resolveParameters } from '../../lib/checkpoint/layout.ts'
import { openCheckpoint } from '../../lib/checkpoint/open_checkpoint.ts'
import { readSafetensors } from '../../lib/checkpoint/safetensors.ts'
import { type Device, devices, openDevice } from '../../lib/device.ts'
import { moe, type MoeWeights } from '../../lib/layers/moe.ts'
import { isMoeLayer, loadConfig, type OpenMoeConfig } from '../../lib/model/config.ts'
import { moeGating } from '../../lib/ops/moe_gating.ts'
import { moePermute } from '../../lib/ops/moe_permute.ts'
import { moeRouting } from '../../lib/ops/moe_routing.ts'
import { moeUnpermute } from '../../lib/ops/moe_unpermute.ts'
import type { HostTensor, Matrix, Tensor } from '../../lib/tensor.ts'
import { tensor } from '../../lib/tensor.ts'
import { attention } from '../reference/attention.ts'
import { rmsNorm } from '../reference/rms_norm.ts'
import { rope } from '../reference/rope.ts'
import { silu } from '../reference/swiglu.ts'
import { goldenCase, goldenJson, readMatrix } from '../support/golden.ts'
import { backends, nmse, openOther } from '../ops/describe_op.ts'
import { BF16_NMSE, expectClose, expectSameBits, throughBf16 } from '../support/op_fixture.ts'
import { randomNumbers } from '../support/tiny_model.ts'

type Vector = ArrayLike<number>
interface Case {
  name: string
  expected: { tensors: string; json: string; capacity_mode: string }[]
  tolerance: { compute_fp32: Record<'hidden_atol' | 'router_logits_atol' | 'topk_prob_atol', number> }
}

/** Beside the checkout; too large to be part of it. */
const SHARED = join(import.meta.dirname, '../../../shared/golden')
const folderOf = (name: string): string => (name === 'wide_heads' ? join(SHARED, name) : goldenCase(name))

const { cases } = goldenJson<{ cases: Case[] }>('manifest.json')
const chosen = cases
  .filter(({ name }) => ['tiny_dropless', 'tiny_drops', 'batch3_drops', 'wide_heads'].includes(name))
  .flatMap((golden) => golden.expected.map((expected) => ({ ...golden, ...expected })))

/** On a GPU x, both weights, what lies between them and the output are rounded to bf16, and the gate multiplies three
 * rounded numbers. */
const GPU_NMSE = 7 * BF16_NMSE

/** x W^T in f64. */
function matmul(x: Vector, weight: Vector, inFeatures: number): Float64Array {
  const outFeatures = weight.length / inFeatures
  const rows = x.length / inFeatures
  const out = new Float64Array(rows * outFeatures)
  for (let row = 0; row < rows; row++) {
    for (let o = 0; o < outFeatures; o++) {
      let sum = 0
      for (let i = 0; i < inFeatures; i++) sum += x[row * inFeatures + i]! * weight[o * inFeatures + i]!
      out[row * outFeatures + o] = sum
    }
  }
  return out
}

/** What the MoE branch of layer `i` reads: the residual stream after its attention, normed. */
function moeInput(
  config: OpenMoeConfig,
  weight: (name: string) => Float32Array,
  hidden: Vector,
  lengths: readonly number[],
): Float64Array {
  const { hiddenSize, rmsNormEps: eps, headDim, ropeTheta: theta } = config
  const heads = { numHeads: config.numAttentionHeads, numKvHeads: config.numKeyValueHeads, headDim }
  const normed = rmsNorm(hidden, weight('input_norm'), eps)
  const attended: number[] = []
  let start = 0
  for (const length of lengths) {
    const x = normed.subarray(start * hiddenSize, (start + length) * hiddenSize)
    const positions = Array.from({ length }, (_, t) => t)
    const turned = (name: string, numHeads: number) =>
      rope(matmul(x, weight(name), hiddenSize), positions, { numHeads, headDim, theta })
    const mixed = attention(
      turned('q', heads.numHeads),
      turned('k', heads.numKvHeads),
      matmul(x, weight('v'), hiddenSize),
      heads,
      0,
    )
    attended.push(...matmul(mixed, weight('o'), heads.numHeads * headDim))
    start += length
  }
  const after = Float64Array.from(attended, (value, i) => value + hidden[i]!)
  return rmsNorm(after, weight('post_attention_norm'), eps)
}

async function uploadExperts(
  device: Device,
  config: OpenMoeConfig,
  parameters: Map<string, ParameterSource>,
  layer: string,
): Promise<MoeWeights> {
  const { hiddenSize: d, intermediateSize: f, numExperts } = config
  const matrices = (name: string) => parameters.get(`${layer}.${name}`)!.matrices.map(readMatrix)
  const [gate, up, down] = ['experts.gate', 'experts.up', 'experts.down'].map(matrices)
  const gateUp = Float32Array.from(gate!.flatMap((matrix, e) => [...matrix, ...up![e]!]))
  return {
    router: await device.upload(tensor(matrices('router')[0]!, [numExperts, d])),
    gateUp: await device.matrix(tensor(gateUp, [numExperts, 3 * f, d]), undefined, { layout: 'gate_up' }),
    down: await device.matrix(tensor(Float32Array.from(down!.flatMap((m) => [...m])), [numExperts, d, f])),
  }
}

type Golden = (typeof chosen)[number]

/** Everything about one MoE layer of a case that no device has a part in; the layers that are MoE layers. */
async function readCase(golden: Golden) {
  const folder = folderOf(golden.name)
  const json = <T>(file: string): T => JSON.parse(readFileSync(join(folder, file), 'utf8')) as T
  const { config } = await loadConfig(folder)
  const parameters = resolveParameters(await openCheckpoint(folder), config)
  const want = await readSafetensors(join(folder, golden.tensors))
  const { input_ids } = json<{ input_ids: number[][] }>('inputs.json')
  const lengths = input_ids.map((ids) => ids.length)
  const { capacity_per_group } = json<{ capacity_per_group: number[] }>(golden.json)
  const layers = Array.from({ length: config.numHiddenLayers }, (_, i) => i).filter((i) =>
    isMoeLayer(config, i),
  )

  const input = (i: number): Float32Array => {
    const weight = (name: string) => readMatrix(parameters.get(name)!.matrices[0]!)
    const embedding = () => {
      const table = weight('embed_tokens')
      const d = config.hiddenSize
      return Float64Array.from(input_ids.flat().flatMap((id) => [...table.subarray(id * d, (id + 1) * d)]))
    }
    const hidden = i === 0 ? embedding() : want.get(`hidden.${i - 1}`)!.data
    return Float32Array.from(moeInput(config, (name) => weight(`layers.${i}.${name}`), hidden, lengths))
  }
  const ends = golden.capacity_mode === 'sequence' ? lengths : [lengths.reduce((a, b) => a + b, 0)]
  const groupOffsets = ends.reduce((offsets, length) => [...offsets, offsets.at(-1)! + length], [0])
  const capacity = capacity_per_group.length > 0 ? capacity_per_group : [-1]
  return {
    config,
    parameters,
    want,
    layers,
    groupOffsets,
    capacity,
    inputs: new Map(layers.map((i) => [i, input(i)])),
  }
}

const read = new Map<Golden, ReturnType<typeof readCase>>()
function caseOf(golden: Golden): ReturnType<typeof readCase> {
  const found = read.get(golden) ?? readCase(golden)
  read.set(golden, found)
  return found
}

async function runLayer(device: Device, golden: Golden, i: number) {
  const { config, parameters, groupOffsets, capacity, inputs } = await caseOf(golden)
  const weights = await uploadExperts(device, config, parameters, `layers.${i}`)
  const x = tensor(inputs.get(i)!, [inputs.get(i)!.length / config.hiddenSize, config.hiddenSize])
  const program = device.compile(
    (p) => {
      const groups = {
        groupOffsets: p.use(tensor(Int32Array.from(groupOffsets), [groupOffsets.length])),
        capacity: p.use(tensor(Int32Array.from(capacity), [capacity.length])),
      }
      return moe(p, { x: p.use(x) }, weights, config, groups, 'moe')
    },
    { taps: ['*'] },
  )
  const { values, taps } = await program.run()
  for (const matrix of Object.values(weights) as (Matrix | Tensor)[]) device.free(matrix)
  return { output: values.data, tap: (name: string) => taps.get(`moe.${name}`)!.data }
}

const DEVICES = backends().filter(
  ({ device, options }) => device !== 'cpu' || options.isa === devices()[0]?.isas.at(-1),
)

describe.each(DEVICES)('on $name', (backend) => {
  if (backend.missing) {
    it.skip(`skipped: ${backend.missing}`, () => undefined)
    return
  }
  let device: Device
  beforeAll(async () => {
    device = await openDevice(backend.device, backend.options)
  })
  afterAll(() => device.dispose())
  const isGpu = backend.device !== 'cpu'

  describe.each(chosen)('the MoE branch of $name, $capacity_mode', (golden) => {
    if (!existsSync(folderOf(golden.name))) {
      it.skip(`skipped: ${folderOf(golden.name)} is not here`, () => undefined)
      return
    }
    it('gives the recorded output and taps in every layer', async () => {
      const { want, layers } = await caseOf(golden)
      expect(layers.length).toBeGreaterThan(0)
      for (const i of layers) {
        const { output, tap } = await runLayer(device, golden, i)
        const { hidden_atol, router_logits_atol, topk_prob_atol } = golden.tolerance.compute_fp32
        const expected = (what: string) => want.get(`moe.${i}.${what}`)!.data
        for (const actual of [output, tap('output')]) {
          if (isGpu) expect(nmse(actual, expected('output'))).toBeLessThan(GPU_NMSE)
          else expectClose(actual, expected('output'), { atol: hidden_atol })
        }
        expectClose(tap('router_logits'), expected('router_logits'), { atol: router_logits_atol })
        expectClose(tap('topk_prob'), expected('topk_prob'), { atol: topk_prob_atol })
        expect([...tap('topk_index')]).toEqual([...expected('topk_index')])
        expect([...tap('rank')]).toEqual([...expected('rank')])
        expect([...tap('kept')].map((row) => (row >= 0 ? 1 : 0))).toEqual([...expected('kept')])
      }
    })

    it('gives the same bits twice, and with what may not matter changed', async () => {
      const { layers } = await caseOf(golden)
      const once = await runLayer(device, golden, layers[0]!)
      const other = await openOther(backend)
      for (const where of [device, other]) {
        const again = await runLayer(where, golden, layers[0]!)
        expectSameBits(again.output, once.output)
        expectSameBits(again.tap('router_logits'), once.tap('router_logits'))
      }
      await other.dispose()
    })

    it('drops choices exactly in the cases that say so', async () => {
      const { want, layers } = await caseOf(golden)
      const dropped = layers.flatMap((i) => [...want.get(`moe.${i}.kept`)!.data]).filter((kept) => kept === 0)
      expect(dropped.length > 0).toBe(golden.capacity_mode !== 'dropless')
    })
  })

  describe('alone', () => testByHand(() => device, isGpu))
})

function testByHand(device: () => Device, isGpu: boolean): void {
  describe('permute, experts that change nothing, combine (K7)', () => {
    const [numTokens, hiddenSize, numExperts] = [37, 48, 8]
    const random = randomNumbers(1)
    const whole = (n: number, limit: number) =>
      Float32Array.from({ length: n }, () => Math.floor(random() * 2 * limit) - limit)
    const x = tensor(whole(numTokens * hiddenSize, 1000), [numTokens, hiddenSize])
    const routerLogits = tensor(whole(numTokens * numExperts, 4), [numTokens, numExperts])
    // Sums of eighths of small integers: exact in f32 in any order.
    const weights = tensor(
      Float32Array.from({ length: numTokens * 2 }, () => Math.floor(random() * 8) / 8),
      [numTokens, 2],
    )

    async function run(capacity: number): Promise<{ out: HostTensor; rows: HostTensor }> {
      return device().run((p) => {
        const { expertIds } = moeGating(p, routerLogits, 2)
        const route = moeRouting(p, expertIds, {
          numExperts,
          groupOffsets: tensor(Int32Array.of(0, numTokens), [2]),
          capacity: tensor(Int32Array.of(capacity), [1]),
        })
        const out = moeUnpermute(p, moePermute(p, x, route), route, weights)
        return { out, rows: route.rowIdMap }
      })
    }

    it.each([-1, 6])('is the sum of the weights times x, exactly (capacity %i)', async (capacity) => {
      const { out, rows } = await run(capacity)
      const kept = isGpu ? throughBf16(x.data) : x.data // what a panel keeps of x
      const expected = Float32Array.from({ length: numTokens * hiddenSize }, (_, i) => {
        const token = Math.floor(i / hiddenSize)
        let sum = 0
        for (const k of [0, 1]) {
          if (rows.data[2 * token + k]! >= 0) sum += weights.data[2 * token + k]! * kept[i]!
        }
        return sum
      })
      // + 0 makes -0 and 0 one: a dropped token is 0 whatever the sign of x
      expectSameBits(
        (out.data as Float32Array).map((v) => v + 0),
        expected.map((v) => v + 0),
      )
      expect(Math.min(...rows.data) < 0).toBe(capacity > 0)
    })
  })

  describe('an expert', () => {
    // One expert of 2 inputs and 1 inner feature, chosen with certainty: the formula of spec 3.5 by hand.
    it('multiplies the first half of the gate by silu of the second half and by up', async () => {
      const weights: MoeWeights = {
        router: await device().upload(tensor(Float32Array.of(50, 50, -50, -50), [2, 2])),
        gateUp: await device().matrix(
          tensor(Float32Array.of(2, 0, 0, 3, 1, 1, /* the other expert */ 9, 9, 9, 9, 9, 9), [2, 3, 2]),
          isGpu ? 'bf16' : 'f32',
          { layout: 'gate_up' },
        ),
        down: await device().matrix(tensor(Float32Array.of(1, -1, 9, 9), [2, 2, 1])),
      }
      const { data } = await device().run((p) =>
        moe(
          p,
          { x: p.use(tensor(Float32Array.of(1, 0.5), [1, 2])) },
          weights,
          { topK: 1, numExperts: 2 },
          {
            groupOffsets: p.use(tensor(Int32Array.of(0, 1), [2])),
            capacity: p.use(tensor(Int32Array.of(-1), [1])),
          },
          'moe',
        ),
      )
      const inner = 2 * silu(1.5) * 1.5
      expectClose(data, [inner, -inner], { atol: isGpu ? inner * 2 ** -8 : 1e-5 })
    })
  })
}
