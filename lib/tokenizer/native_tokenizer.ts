/** What native/binding/tokenizer_binding.cpp exports. Only this folder uses it. */

/** Piece types as sentencepiece_model.proto numbers them. */
export const PieceType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const

/** A vocabulary and its normaliser as plain arrays: what a tokenizer.json says. */
export interface PieceTable {
  /** All pieces, separated by NUL: one string crosses the boundary a hundred times faster than 256,000. */
  pieces: string
  scores: Float32Array
  types: Uint8Array
  byteFallback: boolean
  /** precompiled_charsmap; empty when no character is replaced. */
  charsmap: Uint8Array
  addDummyPrefix: boolean
  removeExtraWhitespaces: boolean
}

export interface NativeTokenizer {
  readonly vocabSize: number
  readonly unkId: number
  /** -1 where the model has no such control piece. */
  readonly bosId: number
  readonly eosId: number
  readonly padId: number
  encode(text: string, withDummyPrefix: boolean): Int32Array
  decode(ids: Int32Array, skipSpecial: boolean): string
  idToPiece(id: number): string | undefined
  /** -1: no such piece. */
  pieceToId(piece: string): number
  addToken(content: string, id: number, special: boolean): void
  controlPieces(): string[]
}

export interface NativeStreamDecoder {
  push(ids: Int32Array): string
  flush(): string
}

export interface NativeTokenizerModule {
  /** From the bytes of a spiece.model, or from a piece table. */
  Tokenizer: new (source: Uint8Array | PieceTable) => NativeTokenizer
  StreamDecoder: new (tokenizer: NativeTokenizer, skipSpecial: boolean) => NativeStreamDecoder
}
