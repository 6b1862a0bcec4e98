// A peer in a process of its own: a line of JSON in says what to run, a line of JSON out how many microseconds it took.
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

interface Answer {
  us?: number
  error?: string
}

export class PeerProcess {
  private readonly child: ChildProcessWithoutNullStreams
  private settle: (answer: Answer) => void = () => undefined

  constructor(command: string, args: readonly string[]) {
    this.child = spawn(command, args)
    let errors = ''
    this.child.stderr.on('data', (text: Buffer) => (errors += text.toString()))
    createInterface(this.child.stdout).on('line', (line) => {
      if (line.startsWith('{')) this.settle(JSON.parse(line) as Answer)
    })
    const failed = (what: unknown): void =>
      this.settle({ error: `${command}: ${what} ${errors.slice(-500)}` })
    this.child.on('error', failed)
    this.child.on('exit', (code) => failed(`ended with ${code}:`))
  }

  async sample(work: object): Promise<number> {
    const answer = await new Promise<Answer>((resolve) => {
      this.settle = resolve
      this.child.stdin.write(`${JSON.stringify(work)}\n`)
    })
    if (answer.us === undefined) throw new Error(answer.error)
    return answer.us
  }

  kill(): void {
    this.child.kill()
  }
}

/** The other end: answers every line with what `run` resolves to. */
export function serveSamples<W>(run: (work: W) => Promise<number>): void {
  createInterface(process.stdin).on('line', (line) => {
    run(JSON.parse(line) as W).then(
      (us) => console.log(JSON.stringify({ us })),
      (error: unknown) => console.log(JSON.stringify({ error: (error as Error).message })),
    )
  })
}
