import { callNative, native } from '../native.ts'
import { toIds } from './ids.ts'
import type { NativeStreamDecoder, NativeTokenizer } from './native_tokenizer.ts'

/**
 * Text of a stream of tokens. What push() returns is final: it never ends inside a character, and all of it together,
 * with flush() at the end, is what `Tokenizer.decode` gives for all ids.
 */
export class StreamDecoder {
  readonly #decoder: NativeStreamDecoder

  /** Use `Tokenizer.decoder()`. */
  constructor(tokenizer: NativeTokenizer, skipSpecial: boolean) {
    this.#decoder = callNative(() => new native.StreamDecoder(tokenizer, skipSpecial))
  }

  /** The text that is certain now; '' while a character is incomplete. */
  push(ids: number | ArrayLike<number>): string {
    const array = toIds(typeof ids === 'number' ? [ids] : ids)
    return callNative(() => this.#decoder.push(array))
  }

  /** The rest: U+FFFD for each byte of an unfinished character. The decoder can then be used for a new text. */
  flush(): string {
    return callNative(() => this.#decoder.flush())
  }
}
