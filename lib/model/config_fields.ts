import { OpenMoeError } from '../errors.ts'

export type Fields = Readonly<Record<string, unknown>>

interface Bounds {
  least: number
  most: number
  other?: string // the field's name in the other spelling
}
interface Defaulted<T> {
  absent?: T // without it the field is required
}

/** Reads the fields of a config.json, checked one by one. `null` counts as absent, as in the files on the hub. */
export class FieldReader {
  readonly warnings: string[] = []
  private readonly fields: Fields
  private readonly file: string
  private readonly prefix: string

  constructor(fields: Fields, file: string, prefix = '') {
    this.fields = fields
    this.file = file
    this.prefix = prefix
  }

  fail(message: string): never {
    throw new OpenMoeError('ERR_OPENMOE_CONFIG', `${this.file}: ${this.prefix}${message}`)
  }

  has(name: string): boolean {
    return this.own(name) !== undefined
  }

  integer(name: string, bounds: Bounds & Defaulted<number>): number {
    return this.required(name, this.optionalInteger(name, bounds), bounds.absent)
  }

  number(name: string, bounds: Bounds & Defaulted<number>): number {
    return this.required(name, this.optionalNumber(name, bounds), bounds.absent)
  }

  flag(name: string, { absent, other }: { absent: boolean; other?: string }): boolean {
    const value = this.eitherSpelling(name, other)
    if (value === undefined) return absent
    return typeof value === 'boolean'
      ? value
      : this.fail(`${name} is ${describe(value)}, expected true or false.`)
  }

  text(name: string): string | undefined {
    const value = this.own(name)
    if (value === undefined || typeof value === 'string') return value
    return this.fail(`${name} is ${describe(value)}, expected a string.`)
  }

  nested(name: string): FieldReader | undefined {
    const value = this.own(name)
    if (value === undefined) return undefined
    if (typeof value !== 'object' || Array.isArray(value))
      this.fail(`${name} is ${describe(value)}, expected an object.`)
    return new FieldReader(value as Fields, this.file, `${name}.`)
  }

  optionalInteger(name: string, bounds: Bounds): number | undefined {
    const value = this.optionalNumber(name, bounds)
    if (value === undefined || Number.isInteger(value)) return value
    return this.fail(`${name} is ${value}, expected an integer.`)
  }

  optionalNumber(name: string, { least, most, other }: Bounds): number | undefined {
    const value = this.eitherSpelling(name, other)
    if (value === undefined) return undefined
    if (typeof value !== 'number') return this.fail(`${name} is ${describe(value)}, expected a number.`)
    if (value >= least && value <= most) return value
    return this.fail(`${name} is ${value}, expected ${least} to ${most}.`)
  }

  private required(name: string, value: number | undefined, absent: number | undefined): number {
    return (
      value ?? absent ?? this.fail(`${name} is missing. Use the config.json that came with the checkpoint.`)
    )
  }

  /** Both spellings may be there (openmoe-pt writes both); then they must say the same. */
  private eitherSpelling(name: string, other: string | undefined): unknown {
    const value = this.own(name)
    const twin = other === undefined ? undefined : this.own(other)
    if (value !== undefined && twin !== undefined && value !== twin) {
      this.fail(
        `${name} is ${describe(value)} and ${other} is ${describe(twin)}. They mean the same: keep one.`,
      )
    }
    return value ?? twin
  }

  private own(name: string): unknown {
    return Object.hasOwn(this.fields, name) ? (this.fields[name] ?? undefined) : undefined
  }
}

/** A JSON value fit for a message. */
export function describe(value: unknown): string {
  if (value === undefined) return 'absent'
  if (typeof value === 'number') return String(value) // JSON has no word for infinity, which 1e999 becomes
  if (Array.isArray(value))
    return value.length > 4 ? `an array of ${value.length}` : `[${value.map(describeFlat).join(', ')}]`
  return describeFlat(value)
}

function describeFlat(value: unknown): string {
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object'
  const text = JSON.stringify(value) ?? typeof value
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}
