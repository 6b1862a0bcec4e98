import { describe, expect, it } from 'vitest'
import { mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { readSafetensors, readSafetensorsHeader, writeSafetensors } from '../../lib/checkpoint/safetensors.ts'
import { expectError } from '../support/expect_error.ts'
import { tempFolder } from '../support/temp_folder.ts'

const temp = tempFolder()
const golden = join(import.meta.dirname, '../golden/tiny_drops/model.safetensors')

describe('safetensors data', () => {
  it('round-trips what writeSafetensors wrote, aligned and with its metadata', async () => {
    const path = join(temp.path, 'written.safetensors')
    async function* chunks() {
      yield Buffer.from(Float32Array.of(1, 2).buffer)
      yield Buffer.from(Float32Array.of(3).buffer)
    }
    const bf16 = Uint16Array.of(0x3f80, 0xc000)
    const written = await writeSafetensors(
      path,
      [
        { name: 'u8', dtype: 'U8', shape: [3], data: Uint8Array.of(7, 8, 9) },
        { name: 'bf16', dtype: 'BF16', shape: [2, 1], data: new Uint8Array(bf16.buffer) },
        { name: 'f32 "é"', dtype: 'F32', shape: [3], data: chunks },
        { name: 'i32', dtype: 'I32', shape: [], data: [new Uint8Array(Int32Array.of(-5).buffer)] },
        { name: 'none', dtype: 'F32', shape: [0, 4], data: new Uint8Array(0) },
      ],
      { format: 'pt' },
    )
    const { tensors, metadata, file } = await readSafetensorsHeader(path)
    expect(written).toEqual({ path, bytes: file.bytes })
    expect(metadata).toEqual(new Map([['format', 'pt']]))
    for (const { name, offset } of tensors.values()) {
      expect(offset % (name === 'u8' ? 1 : name === 'bf16' ? 2 : 4), name).toBe(0)
    }
    const loaded = await readSafetensors(path)
    expect(loaded.get('u8')?.data).toEqual(Uint8Array.of(7, 8, 9))
    expect(loaded.get('bf16')).toEqual({ dtype: 'BF16', shape: [2, 1], data: bf16 })
    expect(loaded.get('f32 "é"')?.data).toEqual(Float32Array.of(1, 2, 3))
    expect(loaded.get('i32')?.data).toEqual(Int32Array.of(-5))
    expect((await readSafetensors(path, { widenBf16: true })).get('bf16')?.data).toEqual(
      Float32Array.of(1, -2),
    )
  })

  const broken: [string, object, RegExp][] = [
    ['too little data', { data: new Uint8Array(4) }, /takes 8 bytes, its data has 4/],
    ['too much data', { data: [new Uint8Array(8), new Uint8Array(1)] }, /has more/],
    ['an unknown dtype', { dtype: 'F31' }, /unknown/],
    ['a fractional shape', { shape: [1.5] }, /integers/],
    ['an overflowing shape', { shape: [2 ** 30, 2 ** 30] }, /overflows/],
    ['a reserved name', { name: '__metadata__' }, /reserved/],
  ]
  it.each(broken)('refuses to write %s and leaves the old file in place', async (_, change, message) => {
    const folder = temp.folder()
    const path = join(folder, 'kept.safetensors')
    const good = { name: 'w', dtype: 'F32' as const, shape: [2], data: new Uint8Array(8) }
    await writeSafetensors(path, [good])
    const before = readFileSync(path)
    await expectError(writeSafetensors(path, [{ ...good, ...change }]), 'ERR_OPENMOE_INVALID_ARG', message)
    expect(readFileSync(path)).toEqual(before)
    expect(readdirSync(folder)).toEqual(['kept.safetensors'])
  })

  it('cleans up and passes on what a data source throws', async () => {
    const folder = temp.folder()
    const failing = () => {
      throw new Error('source failed')
    }
    const tensor = { name: 'w', dtype: 'F32' as const, shape: [2], data: failing }
    await expect(writeSafetensors(join(folder, 'x.safetensors'), [tensor])).rejects.toThrow('source failed')
    expect(readdirSync(folder)).toEqual([])
  })

  it('says so when the folder to write to is not there', async () => {
    const gone = join(temp.path, 'gone')
    mkdirSync(gone)
    rmSync(gone, { recursive: true })
    await expectError(
      writeSafetensors(join(gone, 'x.safetensors'), []),
      'ERR_OPENMOE_FILE_WRITE',
      /writing failed \(ENOENT\)/,
    )
  })

  it('refuses to load a file past maxBytes', async () => {
    await expectError(readSafetensors(golden, { maxBytes: 1000 }), 'ERR_OPENMOE_INVALID_ARG', /at most 1000/)
  })
})
