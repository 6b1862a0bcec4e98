import { join } from 'node:path'
import { OpenMoeError } from '../errors.ts'
import { callNative, fromNative, native } from '../native.ts'
import { toIds } from './ids.ts'
import { Fields, parseJson, readIfThere, tokenizerError } from './json_file.ts'
import type { NativeTokenizer } from './native_tokenizer.ts'
import {
  readChatTemplate,
  readDeclaredTokens,
  sentinels,
  type AddedToken,
  type DeclaredTokens,
} from './special_tokens.ts'
import { SpecialTokenSplitter } from './special_token_splitter.ts'
import { StreamDecoder } from './stream_decoder.ts'
import { readTokenizerJson, type TokenizerJson } from './tokenizer_json.ts'

export interface EncodeOptions {
  /** Put the token that starts every text in front (default true). */
  addSpecial?: boolean
  /**
   * Read `</s>`, `<extra_id_3>` and the like in the text as special tokens. Off by default: in a user's text they are
   * just characters. A chat template needs it.
   */
  parseSpecial?: boolean
}

export interface DecodeOptions {
  /** Leave special tokens out of the text (default true). */
  skipSpecial?: boolean
}

/** Text <-> token ids, exactly as SentencePiece does it for Unigram models. */
export class Tokenizer {
  /** The token in front of every text: T5 models use the pad token. These ids are -1 where the model has none. */
  readonly bosId: number
  readonly eosId: number
  readonly padId: number
  readonly unkId: number
  readonly vocabSize: number
  /** `chat_template` of tokenizer_config.json. */
  readonly chatTemplate: string | undefined
  /** Text and id of every special token. */
  readonly specialTokens: ReadonlyMap<string, number>

  readonly #native: NativeTokenizer
  readonly #splitter: SpecialTokenSplitter
  readonly #addBos: boolean
  readonly #addEos: boolean

  /** Reads spiece.model, else tokenizer.json, and the special tokens of tokenizer_config.json and special_tokens_map.json. */
  static async load(folder: string): Promise<Tokenizer> {
    const config = await fields(join(folder, 'tokenizer_config.json'))
    const map = await fields(join(folder, 'special_tokens_map.json'))
    for (const [name, read] of [
      ['spiece.model', (_: string, bytes: Buffer) => ({ source: bytes, json: undefined })],
      ['tokenizer.json', readJsonModel],
    ] as const) {
      const path = join(folder, name)
      const bytes = await readIfThere(path)
      if (!bytes) continue
      const { source, json } = read(path, bytes)
      return inFile(path, () => new Tokenizer(new native.Tokenizer(source), json, config, map))
    }
    throw tokenizerError(
      `No tokenizer in ${folder}: it has neither spiece.model nor tokenizer.json. Copy one of them next to the weights.`,
    )
  }

  /** Use `Tokenizer.load`. */
  private constructor(
    tokenizer: NativeTokenizer,
    json: TokenizerJson | undefined,
    config: Fields | undefined,
    map: Fields | undefined,
  ) {
    this.#native = tokenizer
    const declared = readDeclaredTokens(config, map)
    const added = addTokens(tokenizer, declared, json?.addedTokens ?? [])
    this.#splitter = new SpecialTokenSplitter(
      added,
      !(json?.prefixFirstOnly ?? config?.object['legacy'] === false),
    )

    const id = (name: string | undefined, otherwise: number) =>
      name === undefined ? otherwise : tokenizer.pieceToId(name)
    this.unkId = tokenizer.unkId
    this.padId = id(declared.pad, tokenizer.padId)
    this.eosId = id(declared.eos, tokenizer.eosId)
    // T5 has no BOS, and OpenMoE's T5 tokenizer starts a text with the pad token, whatever else the model calls <s>.
    const isT5 = /T5|OpenMoe/i.test(JSON.stringify(config?.object['tokenizer_class'] ?? ''))
    const leading = isT5 ? undefined : (declared.bos ?? json?.leadingToken)
    this.bosId = id(leading, this.padId >= 0 ? this.padId : tokenizer.bosId)
    this.#addBos = (config?.boolean('add_bos_token', true) ?? true) && this.bosId >= 0
    this.#addEos = (config?.boolean('add_eos_token', false) ?? false) && this.eosId >= 0

    this.vocabSize = tokenizer.vocabSize
    this.chatTemplate = readChatTemplate(config)
    const control = tokenizer.controlPieces().map((piece) => [piece, tokenizer.pieceToId(piece)] as const)
    this.specialTokens = new Map([
      ...control,
      ...added.filter((t) => t.special).map((t) => [t.content, t.id] as const),
    ])
  }

  /** '' where there is no such token. */
  get bosToken(): string {
    return this.idToPiece(this.bosId) ?? ''
  }
  get eosToken(): string {
    return this.idToPiece(this.eosId) ?? ''
  }

  encode(text: string, options: EncodeOptions = {}): Int32Array {
    if (typeof text !== 'string') {
      throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', `encode: text is ${typeof text}, expected a string.`)
    }
    const { addSpecial = true, parseSpecial = false } = options
    const parts: ArrayLike<number>[] = []
    if (addSpecial && this.#addBos) parts.push([this.bosId])
    for (const part of parseSpecial ? this.#splitter.split(text) : [{ text, withDummyPrefix: true }]) {
      if (part.id !== undefined) parts.push([part.id])
      else parts.push(callNative(() => this.#native.encode(part.text, part.withDummyPrefix)))
    }
    if (addSpecial && this.#addEos) parts.push([this.eosId])
    return parts.length === 1 && parts[0] instanceof Int32Array ? parts[0] : concat(parts)
  }

  /** Number of tokens that `encode(text)` gives. */
  count(text: string): number {
    return this.encode(text).length
  }

  /**
   * Text of the ids, as SentencePiece writes it: special tokens are left out, byte pieces become characters, malformed
   * bytes U+FFFD. Ids from vocabSize on are the padding rows of an embedding and give nothing; a negative id is an error.
   */
  decode(ids: ArrayLike<number>, { skipSpecial = true }: DecodeOptions = {}): string {
    const array = toIds(ids)
    return callNative(() => this.#native.decode(array, skipSpecial))
  }

  /** For text that arrives token by token. */
  decoder({ skipSpecial = true }: DecodeOptions = {}): StreamDecoder {
    return new StreamDecoder(this.#native, skipSpecial)
  }

  /** The piece as the vocabulary spells it (U+2581 for a blank); undefined beyond the vocabulary. */
  idToPiece(id: number): string | undefined {
    return this.#native.idToPiece(id)
  }

  pieceToId(piece: string): number | undefined {
    const id = callNative(() => this.#native.pieceToId(piece))
    return id < 0 ? undefined : id
  }
}

async function fields(path: string): Promise<Fields | undefined> {
  const bytes = await readIfThere(path)
  return bytes && new Fields(path, parseJson(path, bytes))
}

function readJsonModel(path: string, bytes: Buffer) {
  const json = readTokenizerJson(path, parseJson(path, bytes))
  return { source: json.table, json }
}

/** The addon does not know file names; its complaints get one here. */
function inFile<T>(path: string, body: () => T): T {
  try {
    return body()
  } catch (error) {
    const translated = fromNative(error)
    if (!(translated instanceof OpenMoeError) || translated.code !== 'ERR_OPENMOE_TOKENIZER') throw translated
    throw translated.message.includes(path)
      ? translated
      : tokenizerError(`${path}: ${translated.message}`, error)
  }
}

/** Gives every declared token a row, and returns those that `parseSpecial` finds. */
function addTokens(tokenizer: NativeTokenizer, declared: DeclaredTokens, inJson: AddedToken[]): AddedToken[] {
  const tokens = [...inJson, ...declared.added]
  const known = (content: string) => tokenizer.pieceToId(content)
  const pieceCount = tokenizer.vocabSize // before any token is added: where T5 puts its sentinels
  for (const token of tokens) tokenizer.addToken(token.content, token.id, token.special)

  const found = new Map(tokens.map((token) => [token.content, token]))
  const add = (token: AddedToken) => {
    if (found.has(token.content)) return
    found.set(token.content, token)
    tokenizer.addToken(token.content, token.id, token.special)
  }
  const flags = { special: true, lstrip: false, rstrip: false }
  const extra = sentinels(pieceCount, declared.extraIds)
  const haveSentinels = extra.some(({ content }) => known(content) >= 0)
  for (const token of extra) {
    const id = known(token.content)
    if (id >= 0 || !haveSentinels) add({ ...token, id: id >= 0 ? id : token.id })
  }
  // Like Hugging Face: a special token that nobody gave an id gets the next row.
  for (const content of declared.names) {
    const id = known(content)
    add({ content, id: id >= 0 ? id : tokenizer.vocabSize, ...flags })
  }
  if (found.size > 0) return [...found.values()]
  return tokenizer.controlPieces().map((content) => ({ content, id: known(content), ...flags }))
}

function concat(parts: ArrayLike<number>[]): Int32Array {
  const ids = new Int32Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    ids.set(part, at)
    at += part.length
  }
  return ids
}
