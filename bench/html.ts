// A report as one page that needs nothing else: plots are drawn here, as SVG, by vega.
import { parse, View } from 'vega'
import { compile, type TopLevelSpec } from 'vega-lite'
import { type Report, type Row, units } from './report.ts'
import { computeRoof } from './roofline.ts'

const ofHardware = ({ bound }: Row): boolean => bound === 'memory' || bound === 'compute'

export async function htmlPage(report: Report): Promise<string> {
  const { machine, results } = report
  const title = `openmoe bench: ${machine.cpu}`
  const rows = results.filter(ofHardware)
  const plots = rows.length > 0 ? [await figure('Roofline', rooflineSpec(report, rows), ROOFLINE_NOTE)] : []
  if (rows.length > 0) plots.push(await figure('Fraction of the roof', barSpec(rows), BAR_NOTE))
  const facts = [
    `${machine.threads} threads, ${machine.isa}, Node ${machine.node}, ${machine.platform}`,
    `commit ${machine.commit}, ${machine.date}, load ${machine.load.toFixed(1)} before the run`,
    ...report.roofs.map(
      ({ threads, read, copy, f32, bf16, int8 }) =>
        `${threads} thread${threads === 1 ? '' : 's'}: read ${rate(read.median, 'B/s')}, copy ${rate(copy.median, 'B/s')}, ` +
        `f32 ${rate(f32.median, 'FLOP/s')}, bf16 ${rate(bf16.median, 'FLOP/s')}, int8 ${rate(int8.median, 'OP/s')}`,
    ),
  ]
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escape(title)}</title>
<style>${STYLE}</style>
<h1>${escape(title)}</h1>
<ul>${facts.map((fact) => `<li>${escape(fact)}</li>`).join('')}</ul>
${plots.join('\n')}
<h2>Rows</h2>
${table(results)}
${report.failures.length > 0 ? `<h2>Failed</h2><pre>${escape(report.failures.join('\n'))}</pre>` : ''}
</html>
`
}

const STYLE =
  'body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}' +
  'table{border-collapse:collapse;font-size:13px}td,th{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #ddd}' +
  'td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}figure{margin:0}'

const ROOFLINE_NOTE =
  'Lines: what the machine can do, measured in this run with all threads. Points: what each row did. ' +
  'Left of the knee memory is the limit, right of it arithmetic.'
const BAR_NOTE = 'Median; the line spans p10 to p90. The roof of a row is the one that binds it.'

const rate = (n: number, unit: string): string => `${(n / 1e9).toFixed(1)} G${unit}`

export function escape(text: string): string {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`)
}

async function figure(title: string, spec: TopLevelSpec, note: string): Promise<string> {
  const view = new View(parse(compile(spec).spec), { renderer: 'none' })
  const svg = await view.toSVG()
  view.finalize()
  return `<h2>${title}</h2><figure>${svg}<figcaption>${note}</figcaption></figure>`
}

/** Arithmetic intensity against FLOP/s, both logarithmic: the roofs are straight lines. */
function rooflineSpec({ roofs, results }: Report, rows: readonly Row[]): TopLevelSpec {
  const points = rows
    .filter(({ flops, bytes }) => flops > 0 && bytes > 0)
    .map((row) => ({
      row: `${row.name} (${row.shape}, ${row.dtype})`,
      kind: row.name.split(' ')[0]!,
      intensity: row.flops / row.bytes,
      rate: row.flops / (row.medianUs * 1e-6) / 1e9,
    }))
  const { read, ...peaks } = roofs.at(-1)!
  const kinds = [...new Set(results.map(({ dtype }) => computeRoof(dtype)))]
  const from = Math.min(0.1, ...points.map(({ intensity }) => intensity / 2))
  const to = Math.max(1000, ...points.map(({ intensity }) => intensity * 2))
  const lines = kinds.flatMap((kind) => {
    const knee = peaks[kind].median / read.median
    return [from, knee, to].map((intensity) => ({
      roof: `${kind} roof`,
      intensity,
      rate: Math.min(peaks[kind].median, intensity * read.median) / 1e9,
    }))
  })
  const x = {
    field: 'intensity',
    type: 'quantitative',
    title: 'FLOP per byte',
    scale: { type: 'log' },
  } as const
  const y = { field: 'rate', type: 'quantitative', title: 'GFLOP/s', scale: { type: 'log' } } as const
  return {
    width: 760,
    height: 420,
    layer: [
      {
        data: { values: lines },
        mark: { type: 'line', color: '#444' },
        encoding: { x, y, strokeDash: { field: 'roof', type: 'nominal', title: null } },
      },
      {
        data: { values: points },
        mark: { type: 'point', filled: true, size: 60 },
        encoding: {
          x,
          y,
          color: { field: 'kind', type: 'nominal', title: null },
          description: { field: 'row' },
        },
      },
    ],
  }
}

function barSpec(rows: readonly Row[]): TopLevelSpec {
  const values = rows.map((row) => ({
    row: `${row.name} · ${row.shape} ${row.dtype}`,
    bound: row.bound,
    fraction: row.fraction,
    low: (row.fraction * row.medianUs) / row.p90Us,
    high: (row.fraction * row.medianUs) / row.p10Us,
  }))
  const y = { field: 'row', type: 'nominal', sort: null, title: null, axis: { labelLimit: 360 } } as const
  return {
    width: 520,
    height: { step: 18 },
    data: { values },
    layer: [
      {
        mark: 'bar',
        encoding: {
          y,
          x: {
            field: 'fraction',
            type: 'quantitative',
            title: 'fraction of the roof',
            axis: { format: '%' },
          },
          color: { field: 'bound', type: 'nominal', title: null },
        },
      },
      {
        mark: { type: 'rule', color: '#222' },
        encoding: { y, x: { field: 'low', type: 'quantitative' }, x2: { field: 'high' } },
      },
    ],
  }
}

function table(rows: readonly Row[]): string {
  const head = [
    'row',
    'shape',
    'dtype',
    'median',
    'p10',
    'p90',
    'bytes',
    'FLOPs',
    'bound',
    'fraction',
    'tok/s',
    '',
  ]
  const cells = rows.map((row) => [
    row.name,
    row.shape,
    row.dtype,
    units.time(row.medianUs),
    units.time(row.p10Us),
    units.time(row.p90Us),
    row.bytes ? units.bytes(row.bytes) : '',
    row.flops ? units.flops(row.flops) : '',
    row.bound,
    units.percent(row.fraction),
    row.tokensPerSecond?.toPrecision(4) ?? '',
    row.note ?? '',
  ])
  const line = (tag: string, texts: readonly string[]): string =>
    `<tr>${texts.map((text) => `<${tag}>${escape(text)}</${tag}>`).join('')}</tr>`
  return `<table>${line('th', head)}${cells.map((texts) => line('td', texts)).join('')}</table>`
}
