import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { arch, cpus, release } from 'node:os'

/** What a figure must be published with, and why there is no device where there is none. */
export function describeHost(builtFrom) {
  const [name, driver, clocksNow, clocksMost, memoryClock, powerLimit, memory] = query(
    'name,driver_version,clocks.sm,clocks.max.sm,clocks.max.mem,power.limit,memory.total',
  )
  const nodes = ['/dev/nvidiactl', '/dev/nvidia0', '/dev/dxg'] // the last is WSL's
  const hasDevice = name !== undefined || nodes.some((path) => existsSync(path))
  return {
    gpu: name,
    driver,
    clocks: name && { smNow: clocksNow, smMost: clocksMost, memoryMost: memoryClock },
    powerLimit,
    memory,
    noDevice: hasDevice ? undefined : 'no NVIDIA device: neither nvidia-smi nor /dev/nvidiactl is there',
    nvcc: output('nvcc', ['--version'])?.match(/release [\d.]+, V([\d.]+)/)?.[1],
    commit:
      commit() ??
      (builtFrom && existsSync(builtFrom) ? `${readFileSync(builtFrom, 'utf8')} (as built)` : 'unknown'),
    node: process.version,
    platform: `${process.platform} ${release()} ${arch()}`,
    cpus: cpus().length,
  }
}

function query(fields) {
  const line = output('nvidia-smi', [`--query-gpu=${fields}`, '--format=csv,noheader'])?.split('\n')[0]
  return line ? line.split(', ') : []
}

function commit() {
  const hash = output('git', ['rev-parse', '--short', 'HEAD'])
  if (!hash) return undefined
  return output('git', ['status', '--porcelain', '-uno']) ? `${hash} with changes` : hash
}

function output(command, args) {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return undefined
  }
}
