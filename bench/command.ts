// `openmoe bench` and `npm run bench`: the same command.
import { Command, InvalidArgumentError } from 'commander'
import { OpenMoeError } from '#lib/errors'
import { WEIGHT_DTYPES } from '#lib/model/weights'
import { groupNames, rowNames } from './groups.ts'
import { checkOptions, ISAS, type RawOptions } from './options.ts'
import { SHAPES } from './shapes.ts'
import { runSuite } from './suite.ts'

/** Runs the benchmarks that `args` ask for. Results go to stdout, progress to stderr. */
export async function runBench(args: readonly string[]): Promise<void> {
  await benchCommand().parseAsync(args, { from: 'user' })
}

function benchCommand(): Command {
  return new Command('openmoe bench')
    .description('microbenchmarks as fractions of what this machine can do (docs/benchmarks.md)')
    .argument('[name...]', 'an op, moe_layer, model, model.decode, node, roofs ...; default: everything')
    .option('--list', 'print the names and end')
    .option('--shape <list>', `sizes: ${SHAPES.map(({ name }) => name).join(', ')} or all`, 'base')
    .option('--dtype <list>', `of the weights: ${WEIGHT_DTYPES.join(', ')} or all`, 'bf16')
    .option('--device <name>', 'auto, cpu, cuda or cuda:N', 'cpu')
    .option('--threads <n>', 'compute threads (default: physical cores)', count)
    .option('--isa <name>', `${ISAS.join(', ')} (default: the best this CPU has)`)
    .option('--filter <text>', 'only rows with this in their name')
    .option('--json <file>', 'write the report (docs/bench.schema.json)')
    .option('--html <file>', 'write one self-contained page with plots')
    .option('--compare <file|ref>', 'against a report, or in pairs against a git revision built for it')
    .option('--pairs <n>', 'pairs per row of --compare REF', count, 12)
    .option('--quick', 'few samples: to see that it runs')
    .optionsGroup('Your own sizes, instead of those of --shape:')
    .option('--hidden <n>', 'hidden_size', count)
    .option('--intermediate <n>', 'intermediate_size', count)
    .option('--experts <n>', 'num_experts', count)
    .option('--heads <n>', 'attention heads', count)
    .option('--kv-heads <n>', 'heads of keys and values', count)
    .option('--head-dim <n>', 'head_dim', count)
    .option('--vocab <n>', 'vocab_size', count)
    .option('--layers <n>', 'layers of the whole model', count)
    .option('--context <n>', 'positions in the cache of a decode step', count)
    .option('--tokens <list>', 'rows of an op, and prompt lengths', counts)
    .option('--batch <list>', 'sequences of a decode step', counts)
    .showHelpAfterError('(openmoe bench --help shows the options)')
    .exitOverride()
    .action(async (names: string[], raw: RawOptions) => {
      if (raw.list) {
        process.stdout.write(`${rowNames().join('\n')}\n`)
        return
      }
      const failures = await runSuite(checkOptions(names, raw, ['roofs', ...groupNames()]))
      if (failures.length > 0) {
        throw new OpenMoeError('ERR_OPENMOE_INTERNAL', `${failures.length} of the benchmarks failed.`)
      }
    })
}

function count(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('Expected a whole number from 1.')
  return Number(text)
}

const counts = (text: string): number[] => text.split(',').map(count)
