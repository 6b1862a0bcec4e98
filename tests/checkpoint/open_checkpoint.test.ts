import { describe, expect, it } from 'vitest'
import {
  copyFileSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { openCheckpoint, openCheckpointFile } from '../../lib/checkpoint/open_checkpoint.ts'
import { expectError } from '../support/expect_error.ts'
import { goldenCase } from '../support/golden.ts'
import { dictPickle, tensor, torchFile } from '../support/pickle_builder.ts'
import { safetensorsBytes } from '../support/safetensors_bytes.ts'
import { tempFolder } from '../support/temp_folder.ts'

const temp = tempFolder()
const SHARDS = 'ERR_OPENMOE_SHARD_INDEX'
const NOT_FOUND = 'ERR_OPENMOE_MODEL_NOT_FOUND'

/** A safetensors file of these U8 tensors, one byte each. */
const shard = (...names: string[]) =>
  safetensorsBytes(
    Object.fromEntries(names.map((name, i) => [name, { dtype: 'U8', shape: [1], data_offsets: [i, i + 1] }])),
    names.length,
  )
const bin = torchFile(dictPickle([['t', tensor({ name: 't', elements: 1, shape: [1], strides: [1] })]]), {
  0: Buffer.alloc(4),
})

/** A model folder with these files. */
function folderOf(files: Record<string, string | Buffer>): string {
  const path = temp.folder()
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(path, name), bytes)
  return path
}
const index = (weightMap: unknown, rest: object = {}) =>
  JSON.stringify({ metadata: { total_size: 2 }, weight_map: weightMap, ...rest })
const sharded = (
  indexText: string,
  shards: Record<string, Buffer> = { '1.safetensors': shard('a'), '2.safetensors': shard('b') },
) => folderOf({ 'model.safetensors.index.json': indexText, ...shards })
const good = { a: '1.safetensors', b: '2.safetensors' }

describe('openCheckpoint', () => {
  it.each([
    ['tiny_dropless', 'safetensors', 1, 49],
    ['tiny_sharded', 'safetensors', 3, 49],
    ['tiny_bin_sharded', 'torch', 3, 49],
    ['tiny_openmoe_pt', 'safetensors', 1, 91],
  ])('finds the weights of %s', async (name, format, files, tensors) => {
    const found = await openCheckpoint(goldenCase(name))
    expect([found.format, found.files.length, found.tensors.size]).toEqual([format, files, tensors])
    const bytes = new Map(found.files.map((file) => [file.path, file.bytes]))
    for (const entry of found.tensors.values()) expect(entry.offset).toBeLessThan(bytes.get(entry.file)!)
  })

  it('prefers the safetensors index, then model.safetensors, then the torch index, then pytorch_model.bin', async () => {
    const path = sharded(index(good))
    writeFileSync(join(path, 'model.safetensors'), shard('single'))
    writeFileSync(join(path, 'pytorch_model.bin.index.json'), index({ t: 'x.bin' }))
    writeFileSync(join(path, 'x.bin'), bin)
    writeFileSync(join(path, 'pytorch_model.bin'), bin)
    const seen: string[] = []
    for (const next of [
      'model.safetensors.index.json',
      'model.safetensors',
      'pytorch_model.bin.index.json',
      '',
    ]) {
      const found = await openCheckpoint(path)
      seen.push(found.files.map((file) => file.path.slice(path.length + 1)).join(' '))
      rmSync(join(path, next || 'x.bin'))
    }
    expect(seen).toEqual(['1.safetensors 2.safetensors', 'model.safetensors', 'x.bin', 'pytorch_model.bin'])
  })

  it('opens a single file by its path', async () => {
    const safe = temp.write('step-41.safetensors', shard('a'))
    expect([...(await openCheckpointFile(safe)).tensors.keys()]).toEqual(['a'])
    expect((await openCheckpointFile(temp.write('old.pt', bin))).format).toBe('torch')
  })

  const folders: [string, () => string, RegExp][] = [
    [
      'a folder that does not exist',
      () => join(temp.path, 'nowhere'),
      /no such folder.*openmoe downloads nothing/,
    ],
    ['a file', () => temp.write('model.safetensors', ''), /this is a file\. Pass the folder/],
    ['an empty folder', () => folderOf({}), /it is empty; expected model\.safetensors/],
    [
      'a folder with a config only',
      () => folderOf({ 'config.json': '{}' }),
      /it holds "config\.json".*Download the weights/,
    ],
    ['GGUF weights', () => folderOf({ 'openmoe-Q4_0.gguf': '' }), /"openmoe-Q4_0\.gguf" is a GGUF file/],
    ['a T5X checkpoint', () => folderOf({ checkpoint: '', 'target.decoder': '' }), /T5X or Flax.*convert it/],
    ['a Flax checkpoint', () => folderOf({ 'flax_model.msgpack': '' }), /T5X or Flax/],
    [
      'shards without an index',
      () => folderOf({ 'model-00001-of-00002.safetensors': shard('a') }),
      /found "model-00001-of-00002\.safetensors".*add the index/,
    ],
  ]
  it.each(folders)('explains %s', async (_, make, message) => {
    await expectError(openCheckpoint(make()), NOT_FOUND, message)
  })

  const indices: [string, () => string, RegExp][] = [
    [
      'a name with ..',
      () => sharded(index({ a: '../1.safetensors' })),
      /"\.\.\/1\.safetensors": it has a path separator/,
    ],
    ['an absolute name', () => sharded(index({ a: '/etc/x.safetensors' })), /path separator/],
    ['a name with a backslash', () => sharded(index({ a: 'x\\1.safetensors' })), /path separator/],
    ['the name ..', () => sharded(index({ a: '..' })), /no file name/],
    ['an empty name', () => sharded(index({ a: '' })), /no file name/],
    ['a name with a NUL', () => sharded(index({ a: '1.safetensors\0' })), /control character/],
    ['a name of 300 letters', () => sharded(index({ a: `${'x'.repeat(300)}.safetensors` })), /longer than/],
    ['a name of another kind of file', () => sharded(index({ a: 'config.json' })), /ending in \.safetensors/],
    [
      'a missing shard',
      () => sharded(index({ ...good, c: '3.safetensors' })),
      /1 of 3 shards are missing: "3\.safetensors"/,
    ],
    [
      'a tensor not in its shard',
      () => sharded(index({ ...good, c: '1.safetensors' })),
      /"c" is not in "1\.safetensors"/,
    ],
    [
      'a tensor the index does not list',
      () => sharded(index(good), { '1.safetensors': shard('a', 'x'), '2.safetensors': shard('b') }),
      /"1\.safetensors" holds tensor "x", but the index does not list it/,
    ],
    [
      'a tensor in another shard than said',
      () => sharded(index({ a: '2.safetensors', b: '1.safetensors' })),
      /holds tensor "a", but the index says "2\.safetensors"/,
    ],
    [
      'a tensor in two shards',
      () => sharded(index(good), { '1.safetensors': shard('a'), '2.safetensors': shard('b', 'a') }),
      /"a" lies in "1\.safetensors" and in "2\.safetensors"/,
    ],
    [
      'a tensor listed twice',
      () => sharded('{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}'),
      /has the key "a" twice/,
    ],
    ['a weight_map that is an array', () => sharded(index([])), /weight_map is an array, expected an object/],
    ['a weight_map that is null', () => sharded(index(null)), /is null/],
    ['no weight_map', () => sharded('{"metadata":{}}'), /no weight_map/],
    [
      'two weight_maps',
      () => sharded(`{"weight_map":{"a":"1.safetensors"},"weight_map":{}}`),
      /"weight_map" twice/,
    ],
    ['an empty weight_map', () => sharded(index({})), /empty/],
    ['a number for a file', () => sharded(index({ a: 1 })), /is a number, expected a string/],
    ['an array', () => sharded('[]'), /expected an object/],
    ['no JSON', () => sharded('weights'), /expected an object/],
    ['not UTF-8', () => folderOf({ 'model.safetensors.index.json': Buffer.from([0x7b, 0xff]) }), /UTF-8/],
    ['metadata 10,000 deep', () => sharded(`{"metadata":${'['.repeat(10_000)}`), /nests too deep/],
  ]
  it.each(indices)('refuses an index with %s', async (_, make, message) => {
    await expectError(openCheckpoint(make()), SHARDS, message)
  })

  it('ignores what else an index says', async () => {
    const text = index(good, { extra: [1, -2.5e3, true, null, { x: [] }] })
    expect((await openCheckpoint(sharded(text))).tensors.size).toBe(2)
  })

  it('passes on what is wrong with a shard itself', async () => {
    const path = sharded(index(good), {
      '1.safetensors': shard('a'),
      '2.safetensors': shard('b').subarray(0, -1),
    })
    await expectError(openCheckpoint(path), 'ERR_OPENMOE_FILE_TRUNCATED', /2\.safetensors/)
  })
})

describe('links in a model folder', () => {
  const outside = temp.write('outside.safetensors', shard('a'))

  it('are refused when they leave it', async () => {
    const path = folderOf({})
    symlinkSync(outside, join(path, 'model.safetensors'))
    await expectError(
      openCheckpoint(path),
      SHARDS,
      /is a link to ".*outside\.safetensors", outside the model folder/,
    )
    const inIndex = folderOf({ 'model.safetensors.index.json': index({ a: '1.safetensors' }) })
    symlinkSync('../outside.safetensors', join(inIndex, '1.safetensors'))
    await expectError(openCheckpoint(inIndex), SHARDS, /outside the model folder/)
  })

  it('are refused when they lead in a circle or nowhere', async () => {
    const circle = folderOf({ 'model.safetensors.index.json': index({ a: '1.safetensors' }) })
    symlinkSync('2.safetensors', join(circle, '1.safetensors'))
    symlinkSync('1.safetensors', join(circle, '2.safetensors'))
    await expectError(openCheckpoint(circle), SHARDS, /leads back to itself/)
    const dangling = folderOf({})
    symlinkSync('gone', join(dangling, 'model.safetensors'))
    await expectError(openCheckpoint(dangling), NOT_FOUND, /link to a file that does not exist/)
  })

  it('are followed within the folder, but not when two shards are one file', async () => {
    const path = folderOf({ 'real.safetensors': shard('a') })
    symlinkSync('real.safetensors', join(path, 'model.safetensors'))
    expect((await openCheckpoint(path)).tensors.size).toBe(1)
    const twice = sharded(index(good), { '1.safetensors': shard('a') })
    symlinkSync('1.safetensors', join(twice, '2.safetensors'))
    await expectError(openCheckpoint(twice), SHARDS, /are the same file/)
  })

  it('are followed into the blobs of the same Hugging Face cache entry only', async () => {
    const cache = temp.folder()
    const repo = join(cache, 'models--OrionZheng--openmoe-base')
    const other = join(cache, 'models--x--y')
    const snapshot = join(repo, 'snapshots', '0123abc')
    for (const path of [join(repo, 'blobs'), snapshot, join(other, 'blobs')])
      mkdirSync(path, { recursive: true })
    writeFileSync(join(repo, 'blobs', 'deadbeef'), shard('a'))
    writeFileSync(join(other, 'blobs', 'deadbeef'), shard('a'))
    symlinkSync('../../blobs/deadbeef', join(snapshot, 'model.safetensors'))
    expect((await openCheckpoint(snapshot)).files[0]?.path).toMatch(/blobs\/deadbeef$/)
    // The folder itself may be reached through a link.
    symlinkSync(snapshot, join(cache, 'current'))
    expect((await openCheckpoint(join(cache, 'current'))).tensors.size).toBe(1)
    rmSync(join(snapshot, 'model.safetensors'))
    symlinkSync('../../../models--x--y/blobs/deadbeef', join(snapshot, 'model.safetensors'))
    await expectError(openCheckpoint(snapshot), SHARDS, /outside the model folder/)
  })
})

describe('a sharded checkpoint cut anywhere', () => {
  it('is refused', async () => {
    const source = goldenCase('tiny_bin_sharded')
    const path = temp.folder()
    for (const name of readdirSync(source)) copyFileSync(join(source, name), join(path, name))
    const name = 'pytorch_model-00003-of-00003.bin'
    const whole = readFileSync(join(source, name))
    for (let cut = 0; cut < whole.length; cut += 4999) {
      writeFileSync(join(path, name), whole.subarray(0, cut))
      await expectError(openCheckpoint(path), 'ERR_OPENMOE_TORCH_ZIP', /00003-of-00003/)
    }
  })
})
