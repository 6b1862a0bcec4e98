/** Stable codes of `OpenMoeError`. Programs may switch on them; messages may be reworded. */
export type ErrorCode =
  | 'ERR_OPENMOE_INVALID_ARG' // an option, argument or shape is wrong
  | 'ERR_OPENMOE_NATIVE_NOT_FOUND' // the addon is not built for this platform
  | 'ERR_OPENMOE_DEVICE_UNAVAILABLE' // the device asked for is not there
  | 'ERR_OPENMOE_DEVICE_LOST' // a GPU failed while it ran; what it held is gone
  | 'ERR_OPENMOE_UNSUPPORTED' // the device has no kernel for this yet
  | 'ERR_OPENMOE_OUT_OF_MEMORY' // weights, cache or a run do not fit
  | 'ERR_OPENMOE_DISPOSED' // used after dispose()
  | 'ERR_OPENMOE_ABORTED' // an AbortSignal without a reason of its own
  | 'ERR_OPENMOE_CONTEXT_LENGTH' // prompt, or prompt + maxTokens, beyond the context
  | 'ERR_OPENMOE_NON_FINITE' // a run produced NaN or infinity
  | 'ERR_OPENMOE_INTERNAL' // a bug of ours
  // checkpoints
  | 'ERR_OPENMOE_MODEL_NOT_FOUND' // no folder, no config.json, no weights
  | 'ERR_OPENMOE_CONFIG' // config.json: unreadable, contradictory or unsupported
  | 'ERR_OPENMOE_NOT_OPENMOE' // a checkpoint of another architecture
  | 'ERR_OPENMOE_FILE_READ' // open, stat or pread failed
  | 'ERR_OPENMOE_FILE_WRITE' // a file could not be written: disk, permissions
  | 'ERR_OPENMOE_FILE_TRUNCATED' // the file ends before its own description says
  | 'ERR_OPENMOE_SAFETENSORS_HEADER' // header length, encoding, JSON or field types
  | 'ERR_OPENMOE_SAFETENSORS_LAYOUT' // offsets: overlap, hole, out of range, not shape x dtype
  | 'ERR_OPENMOE_DTYPE' // a dtype we do not read
  | 'ERR_OPENMOE_TORCH_ZIP' // zip structure of a .bin file
  | 'ERR_OPENMOE_PICKLE' // an opcode or name a plain state dict does not use
  | 'ERR_OPENMOE_SHARD_INDEX' // *.index.json: names outside the folder, missing or doubled tensors
  | 'ERR_OPENMOE_TENSOR_MISSING'
  | 'ERR_OPENMOE_TENSOR_SURPLUS'
  | 'ERR_OPENMOE_TENSOR_SHAPE'
  | 'ERR_OPENMOE_TOKENIZER' // tokenizer files

/** The one error class of the package: a stable `code`, and a message that says what to do next. */
export class OpenMoeError extends Error {
  readonly code: ErrorCode
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'OpenMoeError'
    this.code = code
  }
}
