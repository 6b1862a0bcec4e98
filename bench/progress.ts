import { SingleBar } from 'cli-progress'

/** What is being measured, on stderr: a bar on a terminal, a line per step elsewhere. */
export class Progress {
  private readonly bar: SingleBar | null
  private done = 0
  private total = 0
  private label = ''

  constructor() {
    this.bar = process.stderr.isTTY
      ? new SingleBar({
          format: '[{bar}] {value}/{total} {label}',
          stream: process.stderr,
          clearOnComplete: true,
          hideCursor: true,
        })
      : null
  }

  /** More steps are known of. */
  expect(steps: number): void {
    this.total += steps
  }

  step(label: string): void {
    this.done++
    this.label = label
    if (!this.bar) process.stderr.write(`${label} ...\n`)
    this.draw()
  }

  /** Prints a result, above the bar. */
  print(text: string): void {
    this.bar?.stop()
    process.stdout.write(`${text}\n`)
    this.draw()
  }

  note(text: string): void {
    this.bar?.stop()
    process.stderr.write(`${text}\n`)
    this.draw()
  }

  stop(): void {
    this.bar?.stop()
  }

  private draw(): void {
    this.bar?.start(Math.max(this.total, this.done), this.done, { label: this.label })
  }
}
