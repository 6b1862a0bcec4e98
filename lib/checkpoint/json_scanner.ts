/**
 * A strict JSON reader for files that describe other bytes. `JSON.parse` hides what matters there: it keeps the last of two
 * equal keys, rounds integers past 2^53, reads 1e3 and 1.0 as integers, and builds whatever it is given.
 * The caller says what it expects next, so nothing is ever built that was not asked for, and depth is the caller's.
 */
export class JsonScanner {
  private position = 0
  private readonly text: string
  private readonly fail: (message: string) => never

  constructor(text: string, fail: (message: string) => never) {
    this.text = text
    this.fail = fail
  }

  /** What begins here: '{', '[', '"', a digit or '-', a letter, or '' at the end. */
  peek(): string {
    this.skipSpace()
    return this.text[this.position] ?? ''
  }

  object(what: string, onKey: (key: string) => void): void {
    this.open('{', what, 'an object')
    const seen = new Set<string>()
    if (this.accept('}')) return
    do {
      const key = this.string(`a key of ${what}`)
      if (seen.has(key)) this.error(`${what} has the key ${show(key)} twice`)
      seen.add(key)
      this.expect(':', what)
      onKey(key)
    } while (this.accept(','))
    this.expect('}', what)
  }

  array(what: string, onItem: (index: number) => void): void {
    this.open('[', what, 'an array')
    if (this.accept(']')) return
    let index = 0
    do onItem(index++)
    while (this.accept(','))
    this.expect(']', what)
  }

  string(what: string): string {
    this.open('"', what, 'a string')
    const start = this.position
    let escaped = false
    for (let i = start; i < this.text.length; i++) {
      const code = this.text.charCodeAt(i)
      if (code === 0x22) {
        this.position = i + 1
        const raw = this.text.slice(start, i)
        return escaped ? this.unescape(raw, what) : raw
      }
      if (code === 0x5c) {
        escaped = true
        i++
      } else if (code < 0x20) {
        this.error(`${what} has a control character in a string`)
      }
    }
    return this.error(`${what} is a string without an end`)
  }

  /** A non-negative integer written as digits, at most 2^53 - 1. */
  integer(what: string): number {
    const first = this.peek()
    if (first === '-') this.error(`${what} is negative, expected an integer from 0`)
    if (!isDigit(first)) this.error(`${what} is ${this.kind(first)}, expected an integer`)
    const start = this.position
    while (isDigit(this.text[this.position] ?? '')) this.position++
    const next = this.text[this.position] ?? ''
    const digits = this.text.slice(start, this.position)
    if (next === '.' || next === 'e' || next === 'E') {
      this.error(`${what} is written with a fraction or an exponent, expected plain digits`)
    }
    if (digits.length > 1 && digits.startsWith('0')) this.error(`${what} starts with a superfluous 0`)
    const value = Number(digits)
    if (digits.length > 16 || !Number.isSafeInteger(value))
      this.error(`${what} is ${show(digits)}, beyond 2^53 - 1`)
    return value
  }

  /** Reads over any value; `depth` limits how deep it may nest. */
  skipValue(what: string, depth: number): void {
    if (depth === 0) this.error(`${what} nests too deep`)
    const first = this.peek()
    if (first === '{') this.object(what, () => this.skipValue(what, depth - 1))
    else if (first === '[') this.array(what, () => this.skipValue(what, depth - 1))
    else if (first === '"') this.string(what)
    else {
      const scalar = /(?:-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)/y
      scalar.lastIndex = this.position
      if (!scalar.test(this.text)) this.error(`${what} is ${this.kind(first)}, expected a JSON value`)
      this.position = scalar.lastIndex
    }
  }

  end(): void {
    if (this.peek() !== '') this.error('there is more text after the end of the JSON value')
  }

  private unescape(raw: string, what: string): string {
    let value: unknown
    try {
      value = JSON.parse(`"${raw}"`)
    } catch {
      this.error(`${what} has an invalid escape in a string`)
    }
    // A lone surrogate cannot come from UTF-8, so it has no name on any disk or in any other reader.
    if (/\p{Surrogate}/u.test(value as string)) this.error(`${what} has half a surrogate pair in a string`)
    return value as string
  }

  private open(bracket: string, what: string, expected: string): void {
    const found = this.peek()
    if (found !== bracket) this.error(`${what} is ${this.kind(found)}, expected ${expected}`)
    this.position++
  }

  private accept(character: string): boolean {
    if (this.peek() !== character) return false
    this.position++
    return true
  }

  private expect(character: string, what: string): void {
    if (this.accept(character)) return
    this.error(`expected '${character}' in ${what}, found ${this.kind(this.peek())}`)
  }

  private skipSpace(): void {
    for (; this.position < this.text.length; this.position++) {
      const code = this.text.charCodeAt(this.position)
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return
    }
  }

  private kind(first: string): string {
    if (first === '') return 'the end of the text'
    if (first === '{') return 'an object'
    if (first === '[') return 'an array'
    if (first === '"') return 'a string'
    if (first === '-' || isDigit(first)) return 'a number'
    for (const word of ['null', 'true', 'false']) if (this.text.startsWith(word, this.position)) return word
    return show(first)
  }

  private error(message: string): never {
    return this.fail(`${message} (character ${this.position})`)
  }
}

function isDigit(character: string): boolean {
  return character >= '0' && character <= '9'
}

function show(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text)
}
