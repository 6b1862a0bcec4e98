import { SingleBar } from 'cli-progress'
import pc from 'picocolors'
import { OpenMoeError } from '../errors.ts'
import type { LoadProgress } from '../model/weights.ts'

/** Results go to stdout; everything else (progress, timings, warnings, errors) to stderr. */
export const note = (text: string): void => void process.stderr.write(`${text}\n`)

export const printJson = (value: unknown): void =>
  void process.stdout.write(`${JSON.stringify(value, null, 2)}\n`)

/** Prints an error and returns the exit code. */
export function reportError(error: unknown): number {
  const aborted = error instanceof Error && error.name === 'AbortError'
  if (aborted) return 130
  if (error instanceof OpenMoeError) note(`${pc.red('error')} ${error.message} (${error.code})`)
  else note(`${pc.red('error')} ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
  return 1
}

/** A progress bar on stderr while weights load; silent where stderr is no terminal. */
export function loadProgress(): { onProgress: (progress: LoadProgress) => void; stop: () => void } {
  if (!process.stderr.isTTY) return { onProgress: () => undefined, stop: () => undefined }
  const bar = new SingleBar({
    format: 'loading [{bar}] {percentage}% | {loaded} of {size} | {eta_formatted} left',
    stream: process.stderr,
    clearOnComplete: true,
    hideCursor: true,
  })
  let started = false
  return {
    onProgress: ({ loadedBytes, totalBytes }) => {
      const fields = { loaded: formatBytes(loadedBytes), size: formatBytes(totalBytes) }
      if (!started) bar.start(totalBytes, loadedBytes, fields)
      else bar.update(loadedBytes, fields)
      started = true
    },
    stop: () => bar.stop(),
  }
}

export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let unit = 0
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000
    unit++
  }
  return `${unit === 0 ? bytes : bytes.toPrecision(3)} ${units[unit]}`
}

let interrupt: AbortController | undefined

/** Aborts on Ctrl-C; a second one kills, as always. */
export function interruptSignal(): AbortSignal {
  if (!interrupt) {
    const controller = new AbortController()
    process.once('SIGINT', () => controller.abort())
    interrupt = controller
  }
  return interrupt.signal
}
