// Whether weights fit into the memory that is available now.
import { existsSync, readFileSync } from 'node:fs'
import { OpenMoeError } from '../errors.ts'

/** Refuses before reading what the machine cannot hold: the kernel would otherwise kill the process half way. */
export function expectMemory(bytes: number, device: string): void {
  const available = availableMemory()
  if (available === undefined || bytes <= available) return
  const gib = (n: number): string => (n / 2 ** 30).toFixed(1)
  throw new OpenMoeError(
    'ERR_OPENMOE_OUT_OF_MEMORY',
    `The weights need ${gib(bytes)} GiB, ${gib(available)} GiB are available to ${device}. ` +
      "Pass { dtype: 'bf16' }, 'int8' or 'int4', free memory, or load a smaller model.",
  )
}

function availableMemory(): number | undefined {
  if (existsSync('/proc/meminfo')) {
    const kib = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1]
    const limit = process.constrainedMemory()
    const available = Number(kib) * 1024
    if (kib) return limit && limit < 2 ** 60 ? Math.min(available, limit) : available
  }
  return undefined
}
