import { describe, expect, it } from 'vitest'
import { checkOptions, type GenerateOptions } from '../../lib/generate/options.ts'
import { expectError } from '../support/expect_error.ts'

const check = (options: unknown) => checkOptions(options as GenerateOptions, 1000)
const huge = Object.fromEntries(Array.from({ length: 1025 }, (_, i) => [i % 1000 === 0 ? 1000 + i : i, 1]))

describe('generate options', () => {
  it.each<[string, unknown[]]>([
    ['temperature', [-0.1, NaN, Infinity, 101, '0.5', {}, true, 1n]],
    ['topP', [-0.1, 1.1, NaN, '1']],
    ['topK', [-1, 1.5, 2 ** 31, NaN, '4']],
    ['minP', [-0.1, 1.1, NaN]],
    ['repetitionPenalty', [0, -1, 101, NaN, 'none']],
    ['frequencyPenalty', [-101, 101, NaN]],
    ['presencePenalty', [-101, 101, NaN]],
    ['seed', [-1, 1.5, 2 ** 53, NaN, '7', 7n]],
    ['maxTokens', [0, -1, 1.5, NaN, Infinity, 2 ** 31, '8']],
    ['logprobs', [-1, 21, 1.5, true]],
    ['stop', ['', ['a', ''], [1], 7, {}, new Array(17).fill('x')]],
    ['logitBias', [{ 1000: 1 }, { '-1': 1 }, { x: 1 }, { 5: 101 }, { 5: NaN }, { 5: '1' }, { 1.5: 1 }, huge]],
    ['ignoreEos', ['yes', 1, {}]],
    ['signal', [{}, new AbortController(), 'stop', { aborted: false }]],
  ])('refuses a wrong %s, naming it', async (name, values) => {
    for (const value of values) {
      await expectError(() => check({ [name]: value }), 'ERR_OPENMOE_INVALID_ARG', new RegExp(`^${name} `))
    }
  })

  it('refuses a name it does not know, and lists those it knows', async () => {
    await expectError(
      () => check({ max_tokens: 5 }),
      'ERR_OPENMOE_INVALID_ARG',
      /^max_tokens is no option\. Known: .*maxTokens/,
    )
  })

  it.each([null, 7, 'greedy'])('refuses %s in place of options', async (options) => {
    await expectError(() => check(options), 'ERR_OPENMOE_INVALID_ARG', /^options /)
  })

  it('takes every value at the edge of its range', () => {
    check({ temperature: 0, topP: 0, topK: 0, minP: 0, repetitionPenalty: 0.01, seed: 0, maxTokens: 1 })
    check({ temperature: 100, topP: 1, topK: 2 ** 31 - 1, minP: 1, repetitionPenalty: 100, logprobs: 20 })
    check({ seed: Number.MAX_SAFE_INTEGER, frequencyPenalty: -100, presencePenalty: 100 })
    check({ logitBias: { 0: -100, 999: 100 }, stop: new Array(16).fill('x'), ignoreEos: true })
    check({ signal: AbortSignal.timeout(1000) })
  })

  it('is greedy by default, and takes undefined for absent', () => {
    const { seed, ...rest } = check({ temperature: undefined, stop: undefined, seed: undefined })
    expect(rest).toEqual({
      temperature: 0,
      topP: 1,
      topK: 0,
      minP: 0,
      repetitionPenalty: 1,
      frequencyPenalty: 0,
      presencePenalty: 0,
      logitBias: {},
      stop: [],
      ignoreEos: false,
      maxTokens: undefined,
      logprobs: undefined,
      signal: undefined,
    })
    expect(Number.isSafeInteger(seed)).toBe(true)
  })

  it('makes up another seed each time', () => {
    expect(new Set(Array.from({ length: 20 }, () => check({}).seed)).size).toBe(20)
  })

  it('takes one stop text or a list', () => {
    expect(check({ stop: '\n' }).stop).toEqual(['\n'])
    expect(check({ stop: ['a', 'b'] }).stop).toEqual(['a', 'b'])
  })
})
