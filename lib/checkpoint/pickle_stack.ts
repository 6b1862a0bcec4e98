import { isUtf8 } from 'node:buffer'
import { MAX_TENSORS } from './tensor_index.ts'
import type { PickleValue } from './pickle_values.ts'

const MAX_STACK = 4 * MAX_TENSORS
const MAX_MEMO = 4 * MAX_STACK
const MAX_MARKS = 1000
const MAX_NAME_BYTES = 4096

export type PickleFail = (message: string) => never

/** What every pickle opcode works on: the bytes still to read, the stack with its marks, and the memo, all bounded. */
export class PickleStack {
  protected position = 0
  protected stack: PickleValue[] = []
  protected readonly marks: PickleValue[][] = []
  protected readonly memo = new Map<number, PickleValue>()
  private held = 0 // values on the stack, the marked parts included
  protected readonly bytes: Buffer
  private readonly failAt: PickleFail

  constructor(bytes: Buffer, fail: PickleFail) {
    this.bytes = bytes
    this.failAt = fail
  }

  protected remember(slot: number): void {
    const top = this.stack.at(-1)
    if (top === undefined) return this.fail('the memo is set from an empty stack')
    this.memo.set(slot, top)
    if (this.memo.size > MAX_MEMO) this.fail('the memo grows too large')
  }

  protected recall(slot: number): void {
    const value = this.memo.get(slot)
    if (value === undefined) return this.fail(`memo slot ${slot} is read before it is set`)
    this.push(value)
  }

  protected push(value: PickleValue): void {
    if (++this.held > MAX_STACK) this.fail('the stack grows too deep')
    this.stack.push(value)
  }

  protected pop(): PickleValue {
    return this.popMany(1)[0]!
  }

  protected popMany(count: number): PickleValue[] {
    if (this.stack.length < count) this.fail('the stack is empty')
    this.held -= count
    return this.stack.splice(this.stack.length - count, count)
  }

  protected mark(): void {
    if (this.marks.length >= MAX_MARKS) this.fail('marks nest too deep')
    this.marks.push(this.stack)
    this.stack = []
  }

  protected popMark(): PickleValue[] {
    const outer = this.marks.pop()
    if (!outer) return this.fail('there is no mark on the stack')
    const items = this.stack
    this.held -= items.length
    this.stack = outer
    return items
  }

  protected long(): number {
    const length = this.byte()
    if (length > 8) this.fail(`LONG1 holds an integer of ${length} bytes`)
    const bytes = this.take(length)
    let value = 0n
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]!)
    value = BigInt.asIntN(length * 8, value)
    const number = Number(value)
    return Number.isSafeInteger(number) ? number : this.fail(`LONG1 holds ${value}, beyond 2^53`)
  }

  protected line(): string {
    const end = this.bytes.indexOf(0x0a, this.position)
    if (end < 0 || end - this.position > MAX_NAME_BYTES) return this.fail('a name has no end')
    const name = this.text(end - this.position)
    this.position++
    return name
  }

  protected text(length: number): string {
    if (length > MAX_NAME_BYTES) this.fail(`a string is ${length} bytes long`)
    const bytes = this.take(length)
    return isUtf8(bytes) ? bytes.toString('utf8') : this.fail('a string is not UTF-8')
  }

  protected byte(): number {
    return this.take(1)[0]!
  }

  protected take(length: number): Buffer {
    if (this.position + length > this.bytes.length) this.fail('it ends in the middle of an opcode')
    this.position += length
    return this.bytes.subarray(this.position - length, this.position)
  }

  protected fail(message: string): never {
    return this.failAt(`${message} (byte ${this.position}).`)
  }
}
