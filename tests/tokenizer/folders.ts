import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Tokenizer } from '../../lib/tokenizer/tokenizer.ts'
import { readSpiece } from './spiece_file.ts'

export const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..')
export const tiny = join(root, 'models/openmoe-tiny')
export const nfkc = join(root, 'tests/golden/tokenizer_nfkc')
export const shared = process.env.OPENMOE_SHARED ?? resolve(root, '../shared')

type Content = string | Uint8Array | object

/** Loads a tokenizer from files that exist only for the call. */
export async function loadFiles(files: Record<string, Content>): Promise<Tokenizer> {
  const folder = mkdtempSync(join(tmpdir(), 'openmoe-tokenizer-'))
  try {
    for (const [name, content] of Object.entries(files)) {
      const isText = typeof content === 'string' || content instanceof Uint8Array
      writeFileSync(join(folder, name), isText ? content : JSON.stringify(content))
    }
    return await Tokenizer.load(folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** The model of a folder through one loader only. */
export async function loadOnly(from: string, file: 'spiece.model' | 'tokenizer.json'): Promise<Tokenizer> {
  const folder = mkdtempSync(join(tmpdir(), 'openmoe-tokenizer-'))
  try {
    for (const name of [file, 'tokenizer_config.json', 'special_tokens_map.json']) {
      if (existsSync(join(from, name))) cpSync(join(from, name), join(folder, name))
    }
    return await Tokenizer.load(folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** A tokenizer.json that says the same as a spiece.model, the way converters write it. */
export function toTokenizerJson(spiece: Buffer) {
  const model = readSpiece(spiece)
  const added = model.pieces
    .map(({ text, type }, id) => ({ id, content: text, special: type === 2 || type === 3, type }))
    .filter(({ type }) => type >= 2 && type <= 4)
  return {
    added_tokens: added.map(({ id, content, special }) => ({ id, content, special, normalized: false })),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Precompiled', precompiled_charsmap: model.charsmap.toString('base64') },
        { type: 'Strip', strip_left: false, strip_right: model.removeExtraWhitespaces },
        { type: 'Replace', pattern: { Regex: ' {2,}' }, content: '▁' },
      ].slice(model.charsmap.length > 0 ? 0 : 1, model.removeExtraWhitespaces ? 3 : 1),
    },
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '</s>', type_id: 0 } }],
    },
    decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
    model: {
      type: 'Unigram',
      unk_id: model.pieces.findIndex(({ type }) => type === 2),
      vocab: model.pieces.map(({ text, score }) => [text, score]),
      byte_fallback: model.pieces.some(({ type }) => type === 6),
    },
  }
}
