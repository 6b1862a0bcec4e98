// npm run bench -- [name...] [options]: from the sources, without a build of dist/.
import { CommanderError } from 'commander'
import { reportError } from '#lib/cli/output'
import { runBench } from './command.ts'

try {
  await runBench(process.argv.slice(2))
} catch (error) {
  // commander has printed its own message
  process.exitCode = error instanceof CommanderError ? error.exitCode : reportError(error)
}
