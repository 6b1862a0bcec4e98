import { expect } from 'vitest'
import { OpenMoeError, type ErrorCode } from '../../lib/errors.ts'

/** Expects an OpenMoeError of this code whose message matches, and returns its message. */
export async function expectError(
  run: Promise<unknown> | (() => unknown),
  code: ErrorCode,
  message: RegExp = /./,
): Promise<string> {
  let error: unknown
  try {
    await (typeof run === 'function' ? run() : run)
  } catch (thrown) {
    error = thrown
  }
  if (error === undefined) throw new Error(`expected ${code}, but nothing was thrown`)
  if (!(error instanceof OpenMoeError)) throw error
  expect({ code: error.code, message: error.message }).toEqual({
    code,
    message: expect.stringMatching(message),
  })
  return error.message
}
