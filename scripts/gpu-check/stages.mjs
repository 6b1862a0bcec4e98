// Runs stages one after the other, each within its own time, and says what came of them. A stage is
//   { name, about, seconds, why?(): string | undefined, command(): string[], env?, judge?(run): { status, summary, table? } }
// `why` names the reason to skip it. A failing or timed-out stage never stops the later ones.
import { spawn } from 'node:child_process'
import { appendFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'

const TAIL = 4000 // characters of a stage's output that go into the report
export const NOTHING = 77 // exit code of a program, and of the whole check, that found nothing to check

export async function runStages(stages, { root, out }, say) {
  const started = performance.now()
  const log = join(out, 'log.txt')
  writeFileSync(log, '')
  const results = []
  for (const stage of stages) {
    const clock = `[${((performance.now() - started) / 1000).toFixed(0).padStart(3)} s]`
    let result
    try {
      const why = stage.why?.()
      if (why === undefined) say(`${clock} ${stage.name} (at most ${stage.seconds} s)`)
      result = why === undefined ? await runStage(stage, root, log) : { status: 'skipped', summary: why }
    } catch (error) {
      result = { status: 'failed', summary: `the stage itself broke: ${error.message}` }
    }
    results.push({ name: stage.name, about: stage.about, checks: stage.checks !== false, ...result })
    say(`${clock} ${stage.name}: ${result.status}${result.summary ? `, ${result.summary}` : ''}`)
  }
  return results
}

async function runStage(stage, root, log) {
  const command = stage.command()
  const started = performance.now()
  const run = await execute(command, {
    cwd: root,
    env: { ...process.env, ...stage.env },
    seconds: stage.seconds,
  })
  const seconds = Number(((performance.now() - started) / 1000).toFixed(2))
  appendFileSync(log, `==== ${stage.name}: ${command.join(' ')}\n${run.output}\n`)
  const { status, summary, table } = judge(stage, run)
  return {
    status,
    summary,
    table,
    seconds,
    command: command.join(' '),
    exitCode: run.code,
    tail: run.output.slice(-TAIL),
  }
}

function judge(stage, run) {
  if (run.timedOut) return { status: 'timed out', summary: `after ${stage.seconds} s` }
  if (run.code === NOTHING) return { status: 'skipped', summary: lastLine(run.output) }
  if (stage.judge) return stage.judge(run)
  return run.code === 0 ? { status: 'passed' } : { status: 'failed', summary: lastLine(run.output) }
}

export const lastLine = (text) => text.trimEnd().split('\n').at(-1) ?? ''

/** A process group of its own, so that its time limit also ends what it started. */
function execute([file, ...args], { cwd, env, seconds }) {
  return new Promise((done) => {
    const child = spawn(file, args, { cwd, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    let timedOut = false
    const timer = setTimeout(() => {
      timedOut = true
      try {
        process.kill(-child.pid, 'SIGKILL')
      } catch {
        // it ended in this moment
      }
    }, seconds * 1000)
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (output += data))
    const finish = (code) => {
      clearTimeout(timer)
      done({ code, output, timedOut })
    }
    child.on('error', (error) => {
      output += error.message
      finish(null)
    })
    child.on('close', (code, signal) => {
      if (signal && !timedOut) output += `\nended by ${signal}`
      finish(code)
    })
  })
}

export function exitCodeOf(results) {
  if (results.some(({ status }) => status === 'failed' || status === 'timed out')) return 1
  return results.some(({ status, checks }) => checks && status === 'passed') ? 0 : NOTHING
}

export function toMarkdown({ host, verdict, date, command, emulated, stages }, out) {
  const about = [
    ['device', emulated ? 'emulated GPU: no time below means anything' : (host.gpu ?? 'none')],
    ['driver', host.driver ?? 'none'],
    ['nvcc', host.nvcc ?? 'none'],
    ['clocks', host.clocks ? Object.values(host.clocks).join(', ') : 'not readable'],
    ['commit', host.commit],
    ['command', `\`${command}\``],
    ['date', date],
  ]
  return [
    `# gpu:check: ${verdict}`,
    '',
    ...about.map(([what, value]) => `- ${what}: ${value}`),
    '',
    '| stage | what | result | seconds | |',
    '| --- | --- | --- | --: | --- |',
    ...stages.map(
      ({ name, about, status, seconds, summary }) =>
        `| ${name} | ${about} | ${status} | ${seconds ?? ''} | ${(summary ?? '').replaceAll('|', '\\|')} |`,
    ),
    '',
    `Full output: log.txt beside this file (${basename(out)}).`,
    '',
    ...stages.flatMap(({ name, table }) => (table ? [`## ${name}`, '', '```', table, '```', ''] : [])),
  ].join('\n')
}
