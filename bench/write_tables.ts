// npm run bench:tables -- FILE...: writes measured rows into README.md and docs/benchmarks.md, between their marks.
import { readFileSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { format, resolveConfig } from 'prettier'
import { reportError } from '#lib/cli/output'
import { OpenMoeError } from '#lib/errors'
import { readReport, type Report } from './report.ts'
import {
  byMachine,
  conditions,
  type PeerReport,
  peersTable,
  peerVersions,
  replaceBetween,
  resultsTable,
  summaryTable,
} from './tables.ts'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

async function rewrite(file: string, sections: Record<string, string>): Promise<void> {
  const path = resolve(ROOT, file)
  let text = readFileSync(path, 'utf8')
  for (const [mark, content] of Object.entries(sections)) text = replaceBetween(text, mark, content)
  writeFileSync(path, await format(text, { ...(await resolveConfig(path)), filepath: path }))
  process.stderr.write(`wrote ${file}\n`)
}

async function main(files: readonly string[]): Promise<void> {
  if (files.length === 0) {
    throw new OpenMoeError(
      'ERR_OPENMOE_INVALID_ARG',
      'Give reports: npm run bench:tables -- bench/results/*/*.json',
    )
  }
  const reports: Report[] = []
  const peers: PeerReport[] = []
  for (const file of files) {
    const json = JSON.parse(readFileSync(file, 'utf8')) as Partial<PeerReport>
    if (json.versions) peers.push(json as PeerReport)
    else reports.push(readReport(file))
  }
  if (reports.length === 0)
    throw new OpenMoeError('ERR_OPENMOE_INVALID_ARG', 'None of the files is a report of openmoe bench.')
  const detail = (report: Report): string => `${resultsTable(report)}\n\n${conditions(report)}`
  await rewrite('README.md', {
    performance: byMachine(reports, (own) => `${summaryTable(own)}\n\n${conditions(own[0]!)}`),
  })
  await rewrite('docs/benchmarks.md', {
    results: byMachine(reports, (own) => own.map(detail).join('\n\n')),
    ...(peers.length > 0 && { peers: `${byMachine(peers, peersTable)}\n\n${peerVersions(peers)}` }),
  })
}

await main(process.argv.slice(2)).catch((error: unknown) => {
  process.exitCode = reportError(error)
})
