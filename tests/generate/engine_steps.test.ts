// When a step is handed over: before the tokens it continues are known, where that is possible (docs/adr/0033).
import { describe, expect, it } from 'vitest'
import type { Generation } from '../../lib/generate/generation.ts'
import { EOS, free, ScriptedEngine, settled } from '../support/scripted_engine.ts'
import { eventually } from '../support/tiny_model.ts'

describe('a step', () => {
  it('is handed over before the tokens it continues are known', async () => {
    const scripted = new ScriptedEngine()
    const release = scripted.hold()
    const requests = [scripted.request([7, 8]), scripted.request([9, 9, 9])]
    await eventually(() => scripted.steps.length === 2)
    expect(scripted.ids[1]).toEqual([-1, -2]) // the rows of the step before
    release()
    const results = await Promise.all(requests.map(({ result }) => result))
    expect(results.map(({ tokens }) => tokens)).toEqual([
      [7, 8, EOS],
      [9, 9, 9, EOS],
    ])
    expect(scripted.steps.length).toBe(4)
    expect(scripted.ids[3]).toEqual([-2]) // the first had all its tokens
  })

  it('waits for the tokens where penalties count them', async () => {
    const scripted = new ScriptedEngine()
    const { result } = scripted.request([7, 8, 9], { presencePenalty: 0.5 })
    expect((await result).tokens).toEqual([7, 8, 9, EOS])
    expect(scripted.ids.slice(1)).toEqual([[7], [8], [9]])
  })

  it('with a chunk of a prompt is not handed over early, so that others can still join it', async () => {
    const scripted = new ScriptedEngine({ prefillChunk: 8 })
    const release = scripted.hold()
    const { result } = scripted.request([7], {}, { promptLength: 20 })
    await eventually(() => scripted.steps.length > 0)
    await settled(result)
    expect(scripted.steps.length).toBe(1)
    release()
    expect((await result).tokens).toEqual([7, EOS])
  })

  it('that follows one in which a sequence ended has one row too many, and no more', async () => {
    const scripted = new ScriptedEngine()
    const other = scripted.request(new Array<number>(9).fill(8))
    const { tokens } = await scripted.request([7, 7], { maxTokens: 9 }).result
    await other.result
    expect(tokens).toEqual([7, 7, EOS])
    expect(scripted.steps.map(({ sequences }) => sequences)).toEqual([2, 2, 2, 2, 1, 1, 1, 1, 1, 1])
  })

  it('that follows a failed one is taken back: who joined only then loses nothing', async () => {
    const scripted = new ScriptedEngine()
    let joined: Generation | undefined
    scripted.onStep = (step) => {
      scripted.failure = step === 3 ? new Error('broken') : undefined
      if (step === 3) joined = scripted.request([8, 9], {}, { promptLength: 1 })
    }
    await expect(scripted.request(new Array<number>(9).fill(7)).result).rejects.toThrow('broken')
    expect((await joined!.result).tokens).toEqual([8, 9, EOS])
    expect(scripted.steps.slice(3)).toEqual([
      { rows: 2, sequences: 2, sampled: 2 }, // taken back
      { rows: 1, sequences: 1, sampled: 1 },
      { rows: 1, sequences: 1, sampled: 1 },
      { rows: 1, sequences: 1, sampled: 1 },
    ])
    await eventually(() => free(scripted))
  })
})
