import { describe, expect, it } from 'vitest'
import { groupNames, rowNames } from '../../bench/groups.ts'
import { checkOptions, closest, type RawOptions, wantsGroup, wantsRow } from '../../bench/options.ts'
import { runBench } from '../../bench/command.ts'
import { WEIGHT_DTYPES } from '../../lib/model/weights.ts'
import { attentionCases } from '../../bench/ops/random.ts'
import { withSizes, SHAPES } from '../../bench/shapes.ts'

const RAW: RawOptions = { shape: 'base', dtype: 'bf16', device: 'cpu', pairs: 12 }
const check = (names: string[], raw: Partial<RawOptions> = {}) =>
  checkOptions(names, { ...RAW, ...raw }, ['roofs', ...groupNames()])
const invalid = (message: RegExp) =>
  expect.objectContaining({ code: 'ERR_OPENMOE_INVALID_ARG', message: expect.stringMatching(message) })

describe('names', () => {
  it('are every op, layers, models, Node and the roofs', () => {
    expect(groupNames()).toEqual(expect.arrayContaining(['grouped_gemm', 'moe_layer', 'model', 'node']))
    expect(rowNames()).toContain('node.first_token')
  })

  it('select a group, or rows by the beginning of their name', () => {
    const options = check(['model.decode', 'linear'])
    expect(wantsGroup(options, 'model')).toBe(true)
    expect(wantsGroup(options, 'rope')).toBe(false)
    expect(wantsRow(options, 'model.decode b=8')).toBe(true)
    expect(wantsRow(options, 'model.prefill t=512')).toBe(false)
    expect(wantsRow(options, 'linear gate_up t=1')).toBe(true)
  })

  it('and a filter leave out what is in one only', () => {
    const options = check(['linear'], { filter: 't=8' })
    expect(wantsRow(options, 'linear down t=8')).toBe(true)
    expect(wantsRow(options, 'linear down t=1')).toBe(false)
  })

  it('are checked, with a suggestion', () => {
    expect(() => check(['grouped_gem'])).toThrow(
      invalid(/grouped_gem'\. Did you mean 'grouped_gemm'\? Known: /),
    )
    expect(() => check(['zzz'])).toThrow(invalid(/zzz'\. Known: /))
  })
})

describe('values', () => {
  it('may be lists, or all', () => {
    expect(check([], { dtype: 'all' }).dtypes).toEqual([...WEIGHT_DTYPES])
    expect(check([], { shape: 'tiny, 8b-layer' }).shapes.map(({ name }) => name)).toEqual([
      'tiny',
      '8b-layer',
    ])
  })

  it.each([
    [{ shape: 'bass' }, /--shape: there is no 'bass'\. Did you mean 'base'/],
    [{ dtype: 'bf61' }, /--dtype: there is no 'bf61'\. Did you mean 'bf16'/],
    [{ isa: 'avx513' }, /--isa: there is no 'avx513'\. Did you mean 'avx512'/],
    [{ experts: 1 }, /--experts: 1 is too few/],
    [{ headDim: 63 }, /--head-dim: 63 is odd/],
    [{ heads: 12, kvHeads: 5 }, /--kv-heads: 12 heads cannot be shared out to 5/],
  ])('refuses %j', (raw, message) => {
    expect(() => check([], raw)).toThrow(invalid(message))
  })

  it.each([
    [['--tokens', '0'], /whole number from 1/],
    [['--threads', '1.5'], /whole number from 1/],
    [['--tokns', '8'], /unknown option '--tokns'/],
  ])('refuses %j', async (args, message) => {
    await expect(runBench(args)).rejects.toThrow(message)
  })

  it('refuses a report that is none', async () => {
    await expect(runBench(['roofs', '--quick', '--compare', 'package.json'])).rejects.toEqual(
      invalid(/package\.json: this is no report/),
    )
  })
})

describe('sizes of one\u2019s own', () => {
  const base = SHAPES.find(({ name }) => name === 'base')!

  it('replace those of the shape, and are named', () => {
    const shape = withSizes(base, { experts: 32, hidden: 2048, tokens: [64], batch: [2, 3] })
    expect(shape).toMatchObject({ numExperts: 32, hiddenSize: 2048, intermediateSize: 2048 })
    expect(shape).toMatchObject({ tokens: [64], prompts: [64], batches: [2, 3] })
    expect(shape.name).toBe('base,hidden=2048,experts=32')
  })

  it('take the heads of keys and values along', () => {
    expect(withSizes(base, { heads: 8 }).numKvHeads).toBe(8)
    expect(withSizes(base, { heads: 8, kvHeads: 2 }).numKvHeads).toBe(2)
  })

  it('decide how long the cache is that attention reads', () => {
    const names = (context?: number) =>
      attentionCases({ ...withSizes(base, { context, tokens: [64] }), dtype: 'bf16' }).map(
        ({ name, length }) => `${name}, ${length}`,
      )
    expect(names()).toEqual(['decode b=1 at 2048, 2048', 'decode b=8 at 2048, 2048', 'prefill t=64, 64'])
    expect(names(512)[1]).toBe('decode b=8 at 512, 512')
    expect(names(65536)).toEqual(['decode b=1 at 65536, 65536', 'prefill t=64, 64'])
  })

  it('leave the name alone when there are none', () => {
    expect(withSizes(base, {})).toEqual(base)
  })
})

describe('closest', () => {
  it.each([
    ['linera', 'linear'],
    ['Swiglu', 'swiglu'],
    ['moelayer', 'moe_layer'],
    ['q', undefined],
    ['something_else', undefined],
  ])('of %s is %s', (typed, meant) => {
    expect(closest(typed, groupNames())).toBe(meant)
  })
})
