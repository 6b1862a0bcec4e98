import { createRequire } from 'node:module'
import { Command, CommanderError } from 'commander'
import { addBench } from './commands/bench.ts'
import { addChat } from './commands/chat.ts'
import { addConvert } from './commands/convert.ts'
import { addDoctor } from './commands/doctor.ts'
import { addForward } from './commands/forward.ts'
import { addGenerate } from './commands/generate.ts'
import { addInspect } from './commands/inspect.ts'
import { addScore } from './commands/score.ts'
import { addTokenize } from './commands/tokenize.ts'
import { reportError } from './output.ts'

/** Runs the command line and returns its exit code. `args` come after `openmoe`. */
export async function runCli(args: readonly string[]): Promise<number> {
  const { version } = createRequire(import.meta.url)('../../package.json') as { version: string }
  const program = new Command('openmoe')
    .description('Run OpenMoE mixture-of-experts language models.')
    .version(version)
    .showHelpAfterError('(openmoe <command> --help shows the options)')
    .exitOverride()
  addGenerate(program)
  addChat(program)
  addForward(program)
  addScore(program)
  addTokenize(program)
  addInspect(program)
  addConvert(program)
  addDoctor(program)
  for (const command of program.commands) command.copyInheritedSettings(program)
  addBench(program) // last: its --help is its own
  try {
    await program.parseAsync(args, { from: 'user' })
    return 0
  } catch (error) {
    // commander has printed its own message
    return error instanceof CommanderError ? error.exitCode : reportError(error)
  }
}
