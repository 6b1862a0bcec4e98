import { readFile, stat } from 'node:fs/promises'
import { OpenMoeError } from '../errors.ts'

/** Larger than any real tokenizer file (a 256,000-piece tokenizer.json has 17 MB). */
const MAX_FILE_BYTES = 256 * 1024 * 1024

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }
export type JsonObject = { [key: string]: Json }

export function tokenizerError(message: string, cause?: unknown): OpenMoeError {
  return new OpenMoeError('ERR_OPENMOE_TOKENIZER', message, { cause })
}

/** The bytes of a file, or undefined when it does not exist. */
export async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    const { size } = await stat(path)
    if (size > MAX_FILE_BYTES)
      throw tokenizerError(`${path} has ${size} bytes, more than any tokenizer file.`)
    return await readFile(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    if (error instanceof OpenMoeError) throw error
    throw new OpenMoeError('ERR_OPENMOE_FILE_READ', `${path}: ${(error as Error).message}`, { cause: error })
  }
}

export function parseJson(path: string, bytes: Uint8Array): JsonObject {
  let value: Json
  try {
    // fatal: a file that is not UTF-8 would otherwise lose characters silently
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as Json
  } catch (error) {
    throw tokenizerError(`${path} is not JSON: ${(error as Error).message}`, error)
  }
  if (!isObject(value)) throw tokenizerError(`${path} holds ${kindOf(value)}, expected an object.`)
  return value
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function kindOf(value: Json | undefined): string {
  if (value === null || value === undefined) return String(value)
  return Array.isArray(value) ? 'an array' : `a value of type ${typeof value}`
}

/** Reads the fields of one JSON object, and names the field in every complaint. */
export class Fields {
  constructor(
    readonly path: string,
    readonly object: JsonObject,
  ) {}

  fail(field: string, expected: string): never {
    const value = this.object[field]
    const found =
      typeof value === 'string' || typeof value === 'number'
        ? JSON.stringify(value).slice(0, 60)
        : kindOf(value)
    throw tokenizerError(`${this.path}.${field} is ${found}, expected ${expected}.`)
  }
  string(field: string): string {
    const value = this.object[field]
    return typeof value === 'string' ? value : this.fail(field, 'a string')
  }
  boolean(field: string, otherwise: boolean): boolean {
    const value = this.object[field] ?? otherwise
    return typeof value === 'boolean' ? value : this.fail(field, 'a boolean')
  }
  id(field: string): number {
    const value = this.object[field]
    const isId = typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 31
    return isId ? value : this.fail(field, 'a token id (0 to 2^31 - 1)')
  }
  array(field: string): Json[] {
    const value = this.object[field]
    return Array.isArray(value) ? value : this.fail(field, 'an array')
  }
  child(field: string): Fields {
    const value = this.object[field]
    return isObject(value) ? new Fields(`${this.path}.${field}`, value) : this.fail(field, 'an object')
  }
  /** The object in `field`, or undefined when the field is null or missing. */
  optional(field: string): Fields | undefined {
    return this.object[field] === undefined || this.object[field] === null ? undefined : this.child(field)
  }
  /** The objects in the array `field`. */
  children(field: string): Fields[] {
    return this.array(field).map((value, i) => {
      if (!isObject(value))
        throw tokenizerError(`${this.path}.${field}[${i}] is ${kindOf(value)}, expected an object.`)
      return new Fields(`${this.path}.${field}[${i}]`, value)
    })
  }
}
