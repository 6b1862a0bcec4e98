import type { Command } from 'commander'
import { text as readAll } from 'node:stream/consumers'
import { Tokenizer } from '../../tokenizer/tokenizer.ts'
import { modelFolder } from '../model_options.ts'
import { printJson } from '../output.ts'

export function addTokenize(program: Command): void {
  program
    .command('tokenize')
    .description('token ids of a text, or with --decode the text of ids')
    .argument('[text]', 'the text, or ids separated by blanks or commas; default: stdin')
    .option('--model <dir>', 'checkpoint folder (default: the bundled openmoe-tiny)')
    .option('--decode', 'ids to text')
    .option('--no-special', 'without the token that starts every text')
    .option('--json', 'print ids and pieces as JSON')
    .action(
      async (
        given: string | undefined,
        options: { model?: string; decode?: boolean; special: boolean; json?: boolean },
      ) => {
        const tokenizer = await Tokenizer.load(modelFolder(options.model))
        const text = given ?? (await readAll(process.stdin))
        if (options.decode) {
          const ids = text
            .split(/[\s,]+/)
            .filter(Boolean)
            .map(Number)
          const decoded = tokenizer.decode(ids)
          if (options.json) printJson({ ids, text: decoded })
          else process.stdout.write(`${decoded}\n`)
          return
        }
        const ids = [...tokenizer.encode(text, { addSpecial: options.special })]
        if (options.json) printJson({ text, ids, pieces: ids.map((id) => tokenizer.idToPiece(id)) })
        else process.stdout.write(`${ids.join(' ')}\n`)
      },
    )
}
