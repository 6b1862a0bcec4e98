/**
 * tokenizer.json, the file of Hugging Face's "tokenizers", for Unigram models. Its chain of normalizers, pre-tokenizers
 * and decoders is an imitation of SentencePiece; we read from it SentencePiece's own settings and then do what
 * SentencePiece does, so both files of a checkpoint give the same ids. Parts that have no such reading are refused.
 */
import { Fields, kindOf, tokenizerError, type JsonObject } from './json_file.ts'
import { PieceType, type PieceTable } from './native_tokenizer.ts'
import { type AddedToken, readAddedToken } from './special_tokens.ts'

export interface TokenizerJson {
  table: PieceTable
  addedTokens: AddedToken[]
  /** Text after a special token gets no blank in front (prepend_scheme "first"). */
  prefixFirstOnly: boolean
  /** The token that the post-processor puts before every text. */
  leadingToken: string | undefined
}

/** What the normalizers and the pre-tokenizer add up to. */
interface Settings {
  charsmap: Uint8Array
  addDummyPrefix: boolean
  removeExtraWhitespaces: boolean
  prefixFirstOnly: boolean
}

const SPACE_SYMBOL = '\u2581'
const isBlank = (text: string) => text === ' ' || text === SPACE_SYMBOL

export function readTokenizerJson(path: string, json: JsonObject): TokenizerJson {
  const root = new Fields(path, json)
  const settings: Settings = {
    charsmap: new Uint8Array(0),
    addDummyPrefix: false,
    removeExtraWhitespaces: false,
    prefixFirstOnly: false,
  }
  const normalizer = root.optional('normalizer')
  if (normalizer) readNormalizer(normalizer, settings)
  const preTokenizer = root.optional('pre_tokenizer')
  if (preTokenizer) readPreTokenizer(preTokenizer, settings)
  checkDecoder(root.child('decoder'))

  const addedTokens = readAddedTokens(root)
  const { prefixFirstOnly, ...normalization } = settings
  return {
    table: { ...readVocabulary(root.child('model'), addedTokens), ...normalization },
    addedTokens,
    prefixFirstOnly,
    leadingToken: readLeadingToken(root.optional('post_processor')),
  }
}

function readNormalizer(part: Fields, settings: Settings): void {
  const type = part.string('type')
  if (type === 'Sequence') {
    for (const child of part.children('normalizers')) readNormalizer(child, settings)
  } else if (type === 'Precompiled') {
    if (settings.charsmap.length > 0) part.fail('type', 'only one Precompiled normalizer')
    settings.charsmap = Buffer.from(part.string('precompiled_charsmap'), 'base64')
  } else if (type === 'Prepend') {
    if (!isBlank(part.string('prepend'))) part.fail('prepend', `" " or "${SPACE_SYMBOL}"`)
    settings.addDummyPrefix = true
  } else if (type === 'Replace') {
    readReplace(part, settings)
  } else if (type === 'Strip') {
    // SentencePiece removes blanks at both ends or at none; converters write Strip for the end alone, because the
    // WhitespaceSplit or Metaspace that follows takes care of the start.
    settings.removeExtraWhitespaces ||= part.boolean('strip_right', true)
  } else {
    part.fail('type', 'Sequence, Precompiled, Prepend, Replace or Strip')
  }
}

/** " " -> U+2581 says nothing new; " {2,}" -> " " is how converters write remove_extra_whitespaces. */
function readReplace(part: Fields, settings: Settings): void {
  const { String: text, Regex: regex } = part.child('pattern').object
  if (!isBlank(part.string('content'))) part.fail('content', `" " or "${SPACE_SYMBOL}"`)
  if (regex === ' {2,}' || regex === ' +') settings.removeExtraWhitespaces = true
  else if (text !== ' ') part.fail('pattern', 'the string " " or the regular expression " {2,}"')
}

function readPreTokenizer(part: Fields, settings: Settings): void {
  const type = part.string('type')
  if (type === 'Sequence') {
    for (const child of part.children('pretokenizers')) readPreTokenizer(child, settings)
  } else if (type === 'WhitespaceSplit') {
    settings.removeExtraWhitespaces = true
  } else if (type === 'Metaspace') {
    if (part.object['replacement'] !== SPACE_SYMBOL) part.fail('replacement', `"${SPACE_SYMBOL}"`)
    const scheme =
      part.object['prepend_scheme'] ?? (part.boolean('add_prefix_space', true) ? 'always' : 'never')
    if (scheme !== 'always' && scheme !== 'first' && scheme !== 'never') {
      part.fail('prepend_scheme', '"always", "first" or "never"')
    }
    // `split` only matters for pieces with a blank inside, which SentencePiece allows whenever the model has them
    part.boolean('split', true)
    settings.addDummyPrefix ||= scheme !== 'never'
    settings.prefixFirstOnly ||= scheme === 'first'
  } else {
    part.fail('type', 'Sequence, WhitespaceSplit or Metaspace')
  }
}

/** Decoding follows SentencePiece; this only refuses decoders that would do something else. */
function checkDecoder(part: Fields): void {
  const type = part.string('type')
  if (type === 'Sequence') part.children('decoders').forEach(checkDecoder)
  else if (!['Metaspace', 'Replace', 'ByteFallback', 'Fuse', 'Strip'].includes(type)) {
    part.fail('type', 'Sequence, Metaspace, Replace, ByteFallback, Fuse or Strip')
  }
}

function readAddedTokens(root: Fields): AddedToken[] {
  if (root.object['added_tokens'] === undefined || root.object['added_tokens'] === null) return []
  return root.children('added_tokens').map((token) => readAddedToken(token, token.id('id')))
}

type Vocabulary = Pick<PieceTable, 'pieces' | 'scores' | 'types' | 'byteFallback'>

function readVocabulary(model: Fields, addedTokens: AddedToken[]): Vocabulary {
  if (model.object['type'] !== undefined && model.object['type'] !== 'Unigram')
    model.fail('type', '"Unigram"')
  const vocab = model.array('vocab')
  const unkId = model.id('unk_id')
  if (unkId >= vocab.length) model.fail('unk_id', `an id below the ${vocab.length} pieces of vocab`)
  const byteFallback = model.boolean('byte_fallback', false)

  const texts = new Array<string>(vocab.length)
  const scores = new Float32Array(vocab.length)
  const types = new Uint8Array(vocab.length).fill(PieceType.normal)
  for (let id = 0; id < vocab.length; id++) {
    const entry = vocab[id]!
    const [text, score] = Array.isArray(entry) ? entry : []
    if (typeof text !== 'string' || typeof score !== 'number' || text.includes('\0')) {
      throw tokenizerError(
        `${model.path}.vocab[${id}] is ${kindOf(entry)}, expected [piece without NUL, score].`,
      )
    }
    texts[id] = text
    scores[id] = score
    if (byteFallback && /^<0x[0-9A-F]{2}>$/.test(text)) types[id] = PieceType.byte
  }
  // A vocab entry has no type: the added tokens tell which pieces are not ordinary text.
  for (const { id, content, special } of addedTokens) {
    if (id < vocab.length && texts[id] === content)
      types[id] = special ? PieceType.control : PieceType.userDefined
  }
  types[unkId] = PieceType.unknown
  return { pieces: texts.join('\0'), scores, types, byteFallback }
}

/** The special token that stands before sequence A in `single`; what follows it (T5 files say </s>) is not used. */
function readLeadingToken(part: Fields | undefined): string | undefined {
  if (!part) return undefined
  const type = part.string('type')
  if (type === 'Sequence') {
    return part
      .children('processors')
      .reduce<string | undefined>((found, p) => found ?? readLeadingToken(p), undefined)
  }
  if (type !== 'TemplateProcessing') part.fail('type', 'TemplateProcessing or Sequence')
  const first = part.children('single')[0]?.optional('SpecialToken')
  return first?.string('id')
}
