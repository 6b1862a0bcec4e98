/**
 * Special tokens as tokenizer_config.json and special_tokens_map.json declare them. Both files are optional: a
 * spiece.model alone has its control pieces.
 */
import { Fields, isObject, kindOf, tokenizerError, type Json } from './json_file.ts'

export interface AddedToken {
  id: number
  content: string
  /** Invisible in decoded text. */
  special: boolean
  /** With `parseSpecial`, the token takes the blanks before or after it along. */
  lstrip: boolean
  rstrip: boolean
}

export interface DeclaredTokens {
  bos?: string
  eos?: string
  pad?: string
  /** Tokens with an id of their own. */
  added: AddedToken[]
  /** Special tokens of which the files give no id. */
  names: string[]
  /** Number of sentinels `<extra_id_N>` after the pieces. */
  extraIds: number
}

const SENTINEL = /^<extra_id_(\d+)>$/
const MAX_EXTRA_IDS = 65_536

export function readDeclaredTokens(config: Fields | undefined, map: Fields | undefined): DeclaredTokens {
  const files = [config, map].filter((file) => file !== undefined)
  const named = (field: string) =>
    files.map((file) => tokenText(file, field)).find((text) => text !== undefined)
  const names = [
    ...files.flatMap((file) => additionalTokens(file)),
    ...['bos_token', 'eos_token', 'unk_token', 'pad_token'].flatMap((field) => named(field) ?? []),
  ]
  const declared = [...new Set(names)]
  const sentinels = declared.filter((name) => SENTINEL.test(name))
  return {
    bos: named('bos_token'),
    eos: named('eos_token'),
    pad: named('pad_token'),
    added: config ? readAddedTokensDecoder(config) : [],
    names: declared.filter((name) => !SENTINEL.test(name)),
    extraIds: Math.max(sentinels.length, config ? extraIds(config) : 0),
  }
}

/** A token is written as its text or as { content: text, ... }. */
function tokenText(
  file: Fields,
  field: string,
  value: Json | undefined = file.object[field],
): string | undefined {
  const text = isObject(value) ? value['content'] : value
  if (text === undefined || text === null || text === '') return undefined
  if (typeof text !== 'string' || text.includes('\0')) {
    throw tokenizerError(`${file.path}.${field} is ${kindOf(text)}, expected a token without NUL.`)
  }
  return text
}

function additionalTokens(file: Fields): string[] {
  const field = 'additional_special_tokens'
  if (file.object[field] === undefined || file.object[field] === null) return []
  return file.array(field).map((value, i) => {
    const text = tokenText(file, `${field}[${i}]`, value)
    return text ?? file.fail(field, 'an array of tokens')
  })
}

function extraIds(config: Fields): number {
  const value = config.object['extra_ids'] ?? 0
  const isCount = typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= MAX_EXTRA_IDS
  return isCount ? value : config.fail('extra_ids', `a number from 0 to ${MAX_EXTRA_IDS}`)
}

/** One entry of `added_tokens` or of tokenizer_config.json's `added_tokens_decoder`. */
export function readAddedToken(token: Fields, id: number): AddedToken {
  if (token.boolean('single_word', false)) token.fail('single_word', 'false')
  const content = token.string('content')
  if (content === '') token.fail('content', 'a string that is not empty')
  return {
    id,
    content,
    special: token.boolean('special', false),
    lstrip: token.boolean('lstrip', false),
    rstrip: token.boolean('rstrip', false),
  }
}

function readAddedTokensDecoder(config: Fields): AddedToken[] {
  const decoder = config.optional('added_tokens_decoder')
  return Object.keys(decoder?.object ?? {}).map((key) => {
    const id = /^\d{1,10}$/.test(key) ? Number(key) : -1
    if (id < 0 || id >= 2 ** 31)
      throw tokenizerError(`${decoder!.path}: "${key}" is no token id (0 to 2^31 - 1).`)
    return readAddedToken(decoder!.child(key), id)
  })
}

/**
 * T5's order: the sentinels follow the pieces, the highest number first, so that <extra_id_0> is the last row.
 * Files that give ids for them, or models that have them as pieces, agree or win.
 */
export function sentinels(numPieces: number, count: number): AddedToken[] {
  return Array.from({ length: count }, (_, i) => ({
    id: numPieces + i,
    content: `<extra_id_${count - 1 - i}>`,
    special: true,
    lstrip: false,
    rstrip: false,
  }))
}

/** `chat_template` of tokenizer_config.json: a template, or a list of named ones, of which "default" counts. */
export function readChatTemplate(config: Fields | undefined): string | undefined {
  const value = config?.object['chat_template']
  if (value === undefined || value === null || typeof value === 'string') return value ?? undefined
  const templates = config!.children('chat_template')
  const chosen = templates.find((t) => t.object['name'] === 'default') ?? templates[0]
  return chosen?.string('template')
}
