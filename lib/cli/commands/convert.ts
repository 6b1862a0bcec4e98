import { type Command, Option } from 'commander'
import { convertCheckpoint } from '../../model/convert.ts'
import { WEIGHT_DTYPES, type WeightDtype } from '../../model/weights.ts'
import { formatBytes, interruptSignal, loadProgress, note, printJson } from '../output.ts'

export function addConvert(program: Command): void {
  program
    .command('convert')
    .description('write a checkpoint of any accepted layout as one safetensors folder')
    .argument('<dir>', 'checkpoint folder')
    .argument('<out>', 'new folder')
    .addOption(
      new Option('--dtype <dtype>', 'auto keeps what is stored')
        .choices(['auto', ...WEIGHT_DTYPES])
        .default('auto'),
    )
    .option('--json', 'print one JSON value')
    .action(async (dir: string, out: string, options: { dtype: 'auto' | WeightDtype; json?: boolean }) => {
      const { onProgress, stop } = loadProgress()
      try {
        const { dtype } = options
        const written = await convertCheckpoint(dir, out, { dtype, onProgress, signal: interruptSignal() })
        stop()
        if (options.json) printJson(written)
        else note(`wrote ${written.path}: ${written.tensors} tensors, ${formatBytes(written.bytes)}`)
      } finally {
        stop()
      }
    })
}
