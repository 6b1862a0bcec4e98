import type { AddedToken } from './special_tokens.ts'

/** A piece of ordinary text, or a special token. */
export interface TextPart {
  text: string
  id?: number
  /** The first text, and with most models any text, gets the blank that stands before a first word. */
  withDummyPrefix: boolean
}

/** Cuts a text at the special tokens it spells; at one place the longest counts. */
export class SpecialTokenSplitter {
  readonly #tokens: Map<string, AddedToken>
  readonly #pattern: RegExp | undefined
  readonly #prefixEvery: boolean

  constructor(tokens: AddedToken[], prefixEvery: boolean) {
    this.#tokens = new Map(tokens.map((token) => [token.content, token]))
    this.#prefixEvery = prefixEvery
    // alternatives are tried in order: the longest first
    const contents = [...this.#tokens.keys()].sort((a, b) => b.length - a.length)
    const escaped = contents.map((content) => content.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&'))
    if (escaped.length > 0) this.#pattern = new RegExp(escaped.join('|'), 'g')
  }

  split(text: string): TextPart[] {
    const parts: TextPart[] = []
    let at = 0
    let stripNext = false
    const addText = (piece: string) => {
      if (piece !== '') parts.push({ text: piece, withDummyPrefix: parts.length === 0 || this.#prefixEvery })
    }
    const textBetween = (end: number) => {
      const piece = text.slice(at, end)
      return stripNext ? piece.trimStart() : piece
    }
    for (const match of this.#pattern ? text.matchAll(this.#pattern) : []) {
      const token = this.#tokens.get(match[0])!
      const before = textBetween(match.index)
      addText(token.lstrip ? before.trimEnd() : before)
      parts.push({ text: match[0], id: token.id, withDummyPrefix: false })
      at = match.index + match[0].length
      stripNext = token.rstrip
    }
    addText(textBetween(text.length))
    return parts
  }
}
