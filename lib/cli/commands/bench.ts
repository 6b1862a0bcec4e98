import type { Command } from 'commander'

/** bench/ as this command sees it: it is built apart, after the library. */
interface BenchModule {
  runBench: (args: readonly string[]) => Promise<void>
}

// A variable, because types of bench/ would make it part of the library's build.
const BENCH: string = '#bench/command'

export function addBench(program: Command): void {
  program
    .command('bench')
    .description(
      'microbenchmarks: ops, layers, models and Node itself as fractions of what this machine can do',
    )
    .argument('[args...]', 'see openmoe bench --help')
    .allowUnknownOption()
    .helpOption(false)
    .action(async (args: string[]) => {
      const { runBench } = (await import(BENCH)) as BenchModule
      await runBench(args)
    })
}
