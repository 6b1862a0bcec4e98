// The commands as a user types them: what lands on which stream, and what a mistake is answered with.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { readSafetensors } from '../../lib/checkpoint/safetensors.ts'
import { goldenCase } from '../support/golden.ts'
import { RELEASED_8B } from '../support/released_configs.ts'
import { captureCli } from '../support/run_cli.ts'
import { tempFolder } from '../support/temp_folder.ts'
import { TINY } from '../support/tiny_model.ts'

const temp = tempFolder()

describe('openmoe generate', () => {
  it('streams the prompt and its continuation to stdout, and tokens per second to stderr', async () => {
    const { status, stdout, stderr } = await captureCli(
      'generate',
      'Call me',
      '--max-tokens',
      '8',
      '--seed',
      '3',
    )
    expect(status).toBe(0)
    expect(stdout).toContain('Call me')
    expect(stdout.length).toBeGreaterThan('Call me\n'.length + 4)
    expect(stderr).toMatch(/^.*8 tokens, [\d.]+ tokens\/s, first after \d+ ms \(length, seed 3\)/)
  })

  it('with --json prints one JSON value and nothing else, the same text for the same seed', async () => {
    const args = ['generate', 'Call me', '--max-tokens', '8', '--seed', '3']
    const { stdout, stderr } = await captureCli(...args, '--json')
    const value = JSON.parse(stdout) as { text: string; tokens: number[]; seed: number }
    expect(value).toMatchObject({ prompt: 'Call me', seed: 3, finishReason: 'length' })
    expect(value.tokens).toHaveLength(8)
    expect(stderr).toBe('')
    expect((await captureCli(...args)).stdout).toContain(value.text)
  })

  it('stops at a stop text', async () => {
    const { stdout } = await captureCli('generate', 'It was', '--temperature', '0', '--stop', ' ', '--json')
    expect(JSON.parse(stdout)).toMatchObject({ finishReason: 'stop' })
  })
})

describe('openmoe chat', () => {
  it('answers line by line and ends with its input', async () => {
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', 'lib/cli/main.ts', 'chat', '--max-tokens', '4', '--seed', '1'],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    )
    let stdout = ''
    let stderr = ''
    child.stdout.on('data', (data) => (stdout += data))
    child.stderr.on('data', (data) => (stderr += data))
    child.stdin.end('Hello\nAnd now?\n')
    const code = await new Promise((resolve) => child.on('close', resolve))
    expect({ code, answers: stderr.match(/tokens\/s/g)?.length }).toEqual({ code: 0, answers: 2 })
    expect(stdout).not.toBe('')
  })
})

describe('openmoe forward', () => {
  it('writes tensors and their JSON side by side', async () => {
    const input = join(goldenCase('tiny_drops'), 'inputs.json')
    const output = join(temp.folder(), 'out.safetensors')
    const model = ['--model', goldenCase('tiny_drops'), '--dtype', 'f32']
    const { status, stdout } = await captureCli(
      ...['forward', ...model, '--input', input, '--taps', 'hidden.0', '--output', output, '--json'],
    )
    expect(status).toBe(0)
    expect(JSON.parse(stdout)).toEqual(JSON.parse(readFileSync(`${output}.json`, 'utf8')))
    const tensors = await readSafetensors(output)
    expect([...tensors.keys()]).toEqual(expect.arrayContaining(['logits', 'hidden.0']))
    expect([...tensors.keys()]).not.toContain('hidden.1')
  })

  it.each([
    ['no JSON', '{', /inputs\.json: /],
    ['no input_ids', '{}', /"input_ids" must be a list of lists/],
    ['an id beyond the vocabulary', '{"input_ids": [[0, 9999999]]}', /9999999/],
  ])('says what is wrong with an input file that has %s', async (_, text, message) => {
    const input = temp.write('inputs.json', text)
    const { status, stderr } = await captureCli('forward', '--input', input)
    expect(status).toBe(1)
    expect(stderr).toMatch(message)
  })
})

describe('openmoe score', () => {
  it('prints nats per token and bits per byte of each file', async () => {
    const file = temp.write('night.txt', 'It was a dark night, and the old man looked at the door.')
    const { stdout } = await captureCli('score', file, file)
    expect(stdout.trim().split('\n')).toHaveLength(2)
    expect(stdout).toMatch(/night\.txt: \d\.\d{4} nats\/token, \d\.\d{4} bits\/byte \(\d+ tokens\)/)
    const json = JSON.parse((await captureCli('score', file, '--json')).stdout) as object[]
    expect(json).toMatchObject([{ file, bytes: 56 }])
  })

  it('says so when a file is not there or has no text', async () => {
    const gone = await captureCli('score', join(temp.path, 'gone.txt'))
    expect(gone.status).toBe(1)
    expect(gone.stderr).toMatch(/gone\.txt.*ERR_OPENMOE_FILE_READ/)
    const empty = await captureCli('score', temp.write('empty.txt', ' \n'))
    expect(empty.stderr).toMatch(/nothing to score.*ERR_OPENMOE_INVALID_ARG/)
  })
})

describe('openmoe tokenize', () => {
  it('turns text into ids and back', async () => {
    const { stdout } = await captureCli('tokenize', 'Hello 🙂 world')
    expect(stdout).toMatch(/^0( \d+)+\n$/)
    expect((await captureCli('tokenize', '--decode', stdout)).stdout).toContain('Hello 🙂 world')
    const json = JSON.parse((await captureCli('tokenize', '--json', '--no-special', 'Hello')).stdout) as {
      pieces: string[]
    }
    expect(json.pieces.join('').replaceAll('\u2581', ' ').trim()).toBe('Hello')
  })

  it('refuses ids that are none', async () => {
    const { status, stderr } = await captureCli('tokenize', '--decode', '1 x')
    expect(status).toBe(1)
    expect(stderr).toMatch(/ERR_OPENMOE_INVALID_ARG/)
  })
})

describe('openmoe inspect', () => {
  it('counts the parameters of the 8B from config.json alone', async () => {
    const config = temp.write(join('8b', 'config.json'), JSON.stringify(RELEASED_8B))
    const { stdout } = await captureCli('inspect', dirname(config))
    expect(stdout).toMatch(/11\.855 B in all, 3\.802 B active/)
    expect(stdout).toMatch(/f32 47\.4 GB, bf16 23\.7 GB/)
    expect(stdout).toMatch(/no weights in this folder/)
  })

  it('lists the tensors of a checkpoint', async () => {
    const { stdout } = await captureCli('inspect', TINY, '--tensors')
    expect(stdout).toMatch(/original layout, safetensors, 67 tensors in 1 file/)
    expect(stdout).toContain('model.layers.2.mlp.gate_weight  BF16 [16, 256]')
    const json = JSON.parse((await captureCli('inspect', TINY, '--json')).stdout) as object
    expect(json).toMatchObject({ parameters: { total: 13643520 }, checkpoint: { layout: 'original' } })
  })
})

describe('openmoe doctor', () => {
  it('names the CPU, its instruction sets and the choice', async () => {
    const { stdout } = await captureCli('doctor')
    for (const line of ['instruction sets', 'isa chosen', 'threads', 'cuda', 'backend for auto']) {
      expect(stdout).toContain(line)
    }
    expect(
      Object.keys(JSON.parse((await captureCli('doctor', '--json')).stdout) as object).length,
    ).toBeGreaterThan(4)
  })
})

describe('a mistake', () => {
  it.each([
    [['generat'], /Did you mean generate/],
    [['generate', '--max-token', '3'], /Did you mean --max-tokens/],
    [['generate', '--max-tokens', 'x'], /Expected a whole number/],
    [['generate', '--dtype', 'f64'], /Allowed choices are/],
    [['generate', '--model', '/nope'], /Pass the folder of a checkpoint/],
    [['generate', '--temperature', '-1'], /temperature/],
    [['generate', '--device', 'tpu'], /Use 'auto', 'cpu', 'cuda' or 'cuda:N'/],
    [['convert', TINY, TINY], /is not empty/],
    [['forward'], /--input/],
  ])('is answered with what to do: %j', async (args, message) => {
    const { status, stdout, stderr } = await captureCli(...args)
    expect(status).not.toBe(0)
    expect(stdout).toBe('')
    expect(stderr).toMatch(message)
    expect(stderr).not.toMatch(/^\s+at /m)
  })
})
