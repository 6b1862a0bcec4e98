// The peers: what each of them runs, in whose weights, and how one sample of it is taken.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { WEIGHT_DTYPES, type WeightDtype } from '#lib/model/weights'
import type { BenchShape } from '../shapes.ts'
import { PeerProcess } from './peer_process.ts'
import { type LlamaWeights, writeLlamaLayer, writeLlamaModel } from './llama_model.ts'
import { type OnnxWeights, writeOnnxMoe } from './onnx_moe.ts'

export interface PeerSetup {
  shape: BenchShape
  threads: number
  /** Where generated models are kept. */
  folder: string
  /** node_modules of node-llama-cpp and onnxruntime-node. */
  modules?: string
  llamaBench?: string
  python?: string
}

/** The same work on both sides; times are of one decode step, one prompt or one pass through the layer. */
export interface PeerPair {
  peer: string
  /** The row of ours: `model.decode b=1`. */
  work: string
  theirWeights: string
  ourWeights: WeightDtype
  start(): Promise<{ sample: () => Promise<number>; stop: () => void }>
}

const DECODE_TOKENS = 24
const LLAMA_WEIGHTS: [LlamaWeights, WeightDtype][] = [
  ['BF16', 'bf16'],
  ['Q8_0', 'int8'],
  ['Q4_0', 'int4'],
]
const ONNX_WEIGHTS: [OnnxWeights, WeightDtype][] = [
  ['f32', 'f32'],
  ['int8', 'int8'],
  ['int4', 'int4'],
]

/** What can be compared on this machine; `note` is told what is missing. */
export function peerPairs(setup: PeerSetup, note: (text: string) => void): PeerPair[] {
  mkdirSync(setup.folder, { recursive: true })
  const has = ([, ours]: [string, WeightDtype]): boolean => WEIGHT_DTYPES.includes(ours)
  const pairs: PeerPair[] = []
  const whole = setup.shape.layers > 0
  if (!whole) note(`${setup.shape.name} is no whole model: its layer only`)
  if (setup.llamaBench) pairs.push(...LLAMA_WEIGHTS.filter(has).flatMap((w) => llamaBenchPairs(setup, w)))
  else note('llama-bench: not given (--llama-bench FILE)')
  if (setup.modules && installed(setup.modules, 'node-llama-cpp') && whole) {
    pairs.push(...LLAMA_WEIGHTS.filter(has).flatMap((w) => nodeLlamaPairs(setup, w)))
  } else note('node-llama-cpp: not in --modules DIR')
  if (setup.modules && installed(setup.modules, 'onnxruntime-node')) {
    pairs.push(...ONNX_WEIGHTS.filter(has).flatMap((w) => onnxPairs(setup, w)))
  } else note('onnxruntime-node: not in --modules DIR')
  if (setup.python && importsTorch(setup.python)) pairs.push(...torchPairs(setup))
  else note(`PyTorch: ${setup.python ?? 'python3'} has none (--python FILE)`)
  return pairs
}

const installed = (modules: string, name: string): boolean => existsSync(join(modules, name, 'package.json'))

/** Prints PyTorch's own version and that of oneDNN, which multiplies its bf16 matrices. */
const TORCH_VERSIONS = `
import re, torch
print(torch.__version__, *('oneDNN ' + v for v in re.findall(r'MKL-DNN (v[0-9.]+)', torch.__config__.show())), sep=', ')`

function importsTorch(python: string): boolean {
  try {
    execFileSync(python, ['-c', 'import torch'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

function llamaFile({ folder, shape }: PeerSetup, weights: LlamaWeights, part: 'model' | 'layer'): string {
  const file = resolve(folder, `${shape.name}-${part === 'layer' ? 'layer-' : ''}${weights}.gguf`)
  const write = part === 'layer' ? writeLlamaLayer : writeLlamaModel
  if (!existsSync(file)) write(file, shape, weights)
  return file
}

/** llama.cpp without JavaScript: a process per sample, which warms up before it measures. */
function llamaBenchPairs(
  setup: PeerSetup,
  [theirWeights, ourWeights]: [LlamaWeights, WeightDtype],
): PeerPair[] {
  const { shape, threads, llamaBench } = setup
  const pair = (work: string, part: 'model' | 'layer', flags: string, runs: number): PeerPair => ({
    peer: 'llama.cpp',
    work,
    theirWeights,
    ourWeights,
    start: () => {
      const file = llamaFile(setup, theirWeights, part)
      const args = ['-m', file, '-t', String(threads), '-r', '1', '-o', 'jsonl', ...flags.split(' ')]
      const sample = (): Promise<number> => {
        const out = execFileSync(llamaBench!, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
        const { samples_ns: times } = JSON.parse(out) as { samples_ns: [number] }
        return Promise.resolve(times[0] / 1000 / runs)
      }
      return Promise.resolve({ sample, stop: () => undefined })
    },
  })
  const model = [
    pair('model.decode b=1', 'model', `-p 0 -n ${DECODE_TOKENS}`, DECODE_TOKENS),
    ...shape.prompts.map((t) => pair(`model.prefill t=${t}`, 'model', `-p ${t} -n 0`, 1)),
  ]
  // Embeddings of all tokens are asked for, or the last layer would be computed for one of them only.
  const layer = shape.tokens.map((t) =>
    t === 1
      ? pair('moe_layer t=1', 'layer', `-p 0 -n ${DECODE_TOKENS}`, DECODE_TOKENS)
      : pair(`moe_layer t=${t}`, 'layer', `-embd 1 -p ${t} -n 0`, 1),
  )
  return shape.layers > 0 ? [...model, ...layer] : layer
}

function nodeLlamaPairs(
  setup: PeerSetup,
  [theirWeights, ourWeights]: [LlamaWeights, WeightDtype],
): PeerPair[] {
  const pair = (work: string, request: { prompt: number; tokens: number }): PeerPair => ({
    peer: 'node-llama-cpp',
    work,
    theirWeights,
    ourWeights,
    start: () =>
      inProcess(
        'node_llama_cpp_child',
        [setup.modules!, llamaFile(setup, theirWeights, 'model')],
        setup,
        request,
      ),
  })
  return [
    pair('node.generate', { prompt: setup.shape.context, tokens: DECODE_TOKENS }),
    ...setup.shape.prompts.map((prompt) => pair(`model.prefill t=${prompt}`, { prompt, tokens: 0 })),
  ]
}

function onnxPairs(setup: PeerSetup, [theirWeights, ourWeights]: [OnnxWeights, WeightDtype]): PeerPair[] {
  const { shape, folder } = setup
  return shape.tokens.map((tokens) => ({
    peer: 'onnxruntime-node',
    work: `moe_layer t=${tokens}`,
    theirWeights,
    ourWeights,
    start: () => {
      const file = resolve(folder, `moe-${shape.name}-${theirWeights}.onnx`)
      if (!existsSync(file)) writeOnnxMoe(file, shape, theirWeights)
      const args = [setup.modules!, file, String(shape.hiddenSize)]
      return inProcess('onnxruntime_child', args, setup, { tokens, runs: tokens < 64 ? 8 : 2 })
    },
  }))
}

function inProcess(script: string, args: readonly string[], { threads }: PeerSetup, request: object) {
  const file = fileURLToPath(new URL(`${script}.ts`, import.meta.url))
  return running(process.execPath, ['--import', 'tsx', file, ...args, String(threads)], request)
}

function running(command: string, args: readonly string[], request: object): ReturnType<PeerPair['start']> {
  const child = new PeerProcess(command, args)
  return Promise.resolve({ sample: () => child.sample(request), stop: () => child.kill() })
}

/** Modules of our own: torch_moe.py is the layer, torch_model.py the whole. */
function torchPairs(setup: PeerSetup): PeerPair[] {
  const { shape, threads } = setup
  const sizes = [shape.hiddenSize, shape.intermediateSize, shape.numExperts, threads].map(String)
  const layers = (['bf16', 'f32'] as const).flatMap((dtype) =>
    shape.tokens.map((tokens) => ({
      peer: 'PyTorch',
      work: `moe_layer t=${tokens}`,
      theirWeights: dtype,
      ourWeights: dtype,
      start: () => torchProcess(setup, 'torch_moe', [dtype, ...sizes], { tokens, runs: tokens < 64 ? 8 : 2 }),
    })),
  )
  if (shape.layers === 0) return layers
  const whole = (['bf16', 'f32'] as const).flatMap((dtype) => torchModelPairs(setup, dtype, 'gathered'))
  return [...whole, ...torchModelPairs(setup, 'bf16', 'padded'), ...layers]
}

function torchModelPairs(
  setup: PeerSetup,
  dtype: 'bf16' | 'f32',
  experts: 'gathered' | 'padded',
): PeerPair[] {
  const { shape, threads } = setup
  const args = [dtype, experts, String(threads), JSON.stringify(shape)]
  const pair = (work: string, request: object): PeerPair => ({
    peer: experts === 'gathered' ? 'PyTorch' : `PyTorch with ${experts} experts`,
    work,
    theirWeights: dtype,
    ourWeights: dtype,
    start: () => torchProcess(setup, 'torch_model', args, request),
  })
  return [
    pair('model.decode b=1', { tokens: 1, position: shape.context, runs: DECODE_TOKENS }),
    ...shape.prompts.map((tokens) => pair(`model.prefill t=${tokens}`, { tokens, position: 0, runs: 1 })),
  ]
}

function torchProcess(setup: PeerSetup, script: string, args: readonly string[], request: object) {
  const file = fileURLToPath(new URL(`${script}.py`, import.meta.url))
  return running(setup.python!, ['-B', file, ...args], request)
}

/** Versions of what was found, for the record. */
export function versionsOf({ modules, llamaBench, python }: PeerSetup): Record<string, string> {
  const versions: Record<string, string> = {}
  for (const name of ['node-llama-cpp', 'onnxruntime-node']) {
    if (!modules || !installed(modules, name)) continue
    const require = createRequire(`${resolve(modules)}/`)
    versions[name] = (require(resolve(modules, name, 'package.json')) as { version: string }).version
  }
  if (llamaBench) {
    const { stdout, stderr } = spawnSync(llamaBench, ['--version'], { encoding: 'utf8' })
    versions['llama.cpp'] = /version: (.*)/.exec(stdout + stderr)?.[1] ?? 'unknown'
  }
  if (python && importsTorch(python)) {
    const about = execFileSync(python, ['-c', TORCH_VERSIONS], { encoding: 'utf8' })
    versions.PyTorch = about.trim()
  }
  return versions
}
