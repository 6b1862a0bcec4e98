import { vi } from 'vitest'
import { runCli } from '../../lib/cli/cli.ts'

export interface CliResult {
  status: number
  stdout: string
  stderr: string
}

/** Runs a command in this process with both streams captured. */
export async function captureCli(...args: string[]): Promise<CliResult> {
  const text = { stdout: '', stderr: '' }
  const spies = (['stdout', 'stderr'] as const).map((name) =>
    vi.spyOn(process[name], 'write').mockImplementation((chunk) => {
      text[name] += typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString()
      return true
    }),
  )
  try {
    const status = await runCli(args)
    return { status, ...text }
  } finally {
    for (const spy of spies) spy.mockRestore()
  }
}
