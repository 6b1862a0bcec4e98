// Token ids -> text that may be shown: whole characters only, nothing that could be the beginning of a stop string.

/** The part of the tokenizer's stream decoder that is needed here. */
export interface CharacterDecoder {
  push(id: number): string
  flush(): string
}

export class TextStream {
  private readonly decoder: CharacterDecoder
  private readonly stops: readonly string[]
  private held = ''
  private stopped = false

  constructor(decoder: CharacterDecoder, stops: readonly string[]) {
    this.decoder = decoder
    this.stops = stops
  }

  /** The text that is certain after one more token; `stopped` once a stop string was completed. */
  push(id: number): { text: string; stopped: boolean } {
    return this.take(this.decoder.push(id), false)
  }

  /** What was held back, when no more tokens come. */
  finish(): { text: string; stopped: boolean } {
    return this.take(this.decoder.flush(), true)
  }

  private take(text: string, last: boolean): { text: string; stopped: boolean } {
    if (this.stopped) return { text: '', stopped: true }
    const pending = this.held + text
    const cut = this.firstStop(pending)
    if (cut !== undefined) {
      this.stopped = true
      this.held = ''
      return { text: pending.slice(0, cut), stopped: true }
    }
    const keep = last ? 0 : this.longestStopPrefix(pending)
    this.held = pending.slice(pending.length - keep)
    return { text: pending.slice(0, pending.length - keep), stopped: false }
  }

  /**
   * Where the stop string begins that is complete first (of those that end together, the longest). Not the one that
   * begins first: then the text would depend on where tokens cut it.
   */
  private firstStop(text: string): number | undefined {
    let first: { begin: number; end: number } | undefined
    for (const stop of this.stops) {
      const begin = text.indexOf(stop)
      if (begin < 0) continue
      const end = begin + stop.length
      if (!first || end < first.end || (end === first.end && begin < first.begin)) first = { begin, end }
    }
    return first?.begin
  }

  /** Length of the longest end of `text` with which a stop string begins. */
  private longestStopPrefix(text: string): number {
    let longest = 0
    for (const stop of this.stops) {
      for (let n = Math.min(stop.length - 1, text.length); n > longest; n--) {
        if (text.endsWith(stop.slice(0, n))) longest = n
      }
    }
    return longest
  }
}
