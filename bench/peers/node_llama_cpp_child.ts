// node-llama-cpp through its JavaScript API. argv: its node_modules folder, a GGUF file, threads.
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { serveSamples } from './peer_process.ts'

interface LlamaSequence {
  clearHistory(): Promise<void>
  evaluate(tokens: number[], options: object): AsyncGenerator<number>
}

interface NodeLlamaCpp {
  getLlama(options: object): Promise<{
    loadModel(options: object): Promise<{
      createContext(options: object): Promise<{ getSequence(): LlamaSequence }>
    }>
  }>
}

const [modules = '', file = '', threads = '1'] = process.argv.slice(2)
const entry = pathToFileURL(resolve(join(modules, 'node-llama-cpp/dist/index.js'))).href
const { getLlama } = (await import(entry)) as NodeLlamaCpp
const llama = await getLlama({ gpu: false, build: 'never', maxThreads: Number(threads), logLevel: 'error' })
const model = await llama.loadModel({ modelPath: resolve(file) })
const context = await model.createContext({ contextSize: 1024, batchSize: 512, threads: Number(threads) })
const sequence = context.getSequence()
const options = { temperature: 0, yieldEogToken: true }
const ids = (count: number): number[] =>
  Array.from({ length: count }, () => 300 + Math.floor(Math.random() * 3000))

/** Microseconds of a prompt with its first token, or of one of `tokens` after a prompt. */
serveSamples(async ({ prompt, tokens }: { prompt: number; tokens: number }) => {
  await sequence.clearHistory()
  const generation = sequence.evaluate(ids(prompt), options)
  let start = performance.now()
  await generation.next()
  if (tokens === 0) {
    const us = (performance.now() - start) * 1000
    await generation.return(0)
    return us
  }
  start = performance.now()
  for (let i = 0; i < tokens; i++) await generation.next()
  const us = ((performance.now() - start) * 1000) / tokens
  await generation.return(0)
  return us
})
