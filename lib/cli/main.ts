#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { addChat } from './commands/chat.ts'
import { addConvert } from './commands/convert.ts'
import { addDoctor } from './commands/doctor.ts'
import { addForward } from './commands/forward.ts'
import { addGenerate } from './commands/generate.ts'
import { addInspect } from './commands/inspect.ts'
import { addScore } from './commands/score.ts'
import { addTokenize } from './commands/tokenize.ts'
import { reportError } from './output.ts'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

const program = new Command('openmoe')
  .description('Run OpenMoE mixture-of-experts language models.')
  .version(version)
  .showHelpAfterError('(openmoe <command> --help shows the options)')
  .exitOverride()
for (const add of [
  addGenerate,
  addChat,
  addForward,
  addScore,
  addTokenize,
  addInspect,
  addConvert,
  addDoctor,
]) {
  add(program)
}

// A reader that has seen enough (| head) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  throw error
})

try {
  await program.parseAsync()
} catch (error) {
  // commander has printed its own message
  process.exitCode = error instanceof CommanderError ? error.exitCode : reportError(error)
}
