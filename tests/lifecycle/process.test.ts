// Lifetimes that end a process or a thread (serving.md F7), each in a process of its own: no signal may end it.
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { bundleLib, runFixture } from '../support/run_fixture.ts'
import { tempFolder } from '../support/temp_folder.ts'

const lib = join(tempFolder().path, 'openmoe.mjs')
beforeAll(() => bundleLib(lib))

describe('a process', () => {
  it('survives 40 workers that are terminated while they load, read a prompt and stream', async () => {
    const { code, signal, stdout, stderr } = await runFixture('terminate_workers.mjs', lib, [40])
    expect({ code, signal, stdout, stderr }).toEqual({
      code: 0,
      signal: null,
      stdout: 'terminated 40\n',
      stderr: '',
    })
  })

  it.each([
    ['exit', { code: 7, signal: null }],
    ['throw', { code: 1, signal: null }],
    ['kill', { code: null, signal: 'SIGTERM' }],
  ])('ends as it was asked to in the middle of a generation: %s', async (how, expected) => {
    const { code, signal } = await runFixture('exit_while_streaming.mjs', lib, [how])
    expect({ code, signal }).toEqual(expected)
  })

  it('ends as it was asked to in the middle of loading', async () => {
    const { code, signal } = await runFixture('exit_while_loading.mjs', lib)
    expect({ code, signal }).toEqual({ code: 7, signal: null })
  })

  it('ends by itself while a model is idle', async () => {
    const { code, signal, stdout } = await runFixture('ends_by_itself.mjs', lib)
    expect({ code, signal, stdout }).toEqual({ code: 0, signal: null, stdout: 'idle\n' })
  })

  it('survives devices that the garbage collector finds at work', async () => {
    const ended = await runFixture('collected_devices.mjs', lib, [], ['--expose-gc'])
    expect(ended).toMatchObject({ code: 0, signal: null, stdout: 'alive\n' })
  })

  it('survives any argument to the addon (Z5)', async () => {
    const ended = await runFixture('hostile_arguments.mjs', lib)
    expect(ended).toMatchObject({ code: 0, signal: null })
    const { calls, rejected } = JSON.parse(ended.stdout) as { calls: number; rejected: number }
    expect(calls).toBeGreaterThan(5000)
    expect(rejected).toBeGreaterThan(0.5 * calls)
  })
})

describe('memory', () => {
  const COUNT = 10
  const MODEL_BYTES = 27e6 // weights in bf16, the least that a load holds on to

  /** Bytes per load that did not come back, without the first loads that fill allocators. */
  async function growth(how: string): Promise<number> {
    const { code, stdout, stderr } = await runFixture('memory.mjs', lib, [COUNT, how], ['--expose-gc'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const rss = (JSON.parse(stdout) as number[]).slice(3)
    return (rss.at(-1)! - rss[0]!) / (rss.length - 1)
  }

  it.each([
    ['of disposed models is free, though somebody still holds them', 'held'],
    ['of models that nobody disposed is free once they are collected', 'forgotten'],
  ])('%s', async (_, how) => {
    expect(await growth(how)).toBeLessThan(MODEL_BYTES / 4)
  })

  it('of leaked models shows, or the tests above could not fail', async () => {
    expect(await growth('leaked')).toBeGreaterThan(MODEL_BYTES)
  })
})
