// The parts of scripts/tokenizer-golden.sh that are easier in JavaScript. Everything is deterministic.
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const lines = JSON.parse(readFileSync(join(here, 'golden_lines.json'), 'utf8'))
const models = ['models/openmoe-tiny', 'tests/golden/tokenizer_nfkc']

/** A small generator of pseudo-random integers below n. */
function random(seed) {
  let state = seed
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * n)
  }
}

const sentences = {
  subject: [
    'the router',
    'an expert',
    'this layer',
    'every token',
    'our model',
    'a quiet machine',
    'the old printer',
  ],
  verb: ['sends', 'keeps', 'drops', 'measures', 'forgets', 'compares', 'prints', 'does not need'],
  object: [
    'two experts',
    'the capacity',
    'its weights',
    'seven numbers',
    'a long sentence',
    'an answer',
    'the next page',
  ],
  end: [
    '.',
    ' again.',
    ' at night.',
    ', and nobody minds.',
    ' <sep> done',
    '!',
    ' [INST] why? [/INST]',
    ' in 2024.',
  ],
  other: [
    'ο δρομολογητής στέλνει δύο λέξεις',
    'маршрутизатор выбирает двух экспертов',
    'ルーターは専門家を選ぶ',
    '路由器选择两位专家',
    'الموجه يختار خبيرين',
    'le routeur choisit deux experts près du café',
    'der Verteiler wählt zwei Fachleute für größere Sätze',
    'for (i = 0; i < n; i++) x[i] += 1;',
    'El año pasado, mañana y ayer',
    'ガギグゲゴ アイウエオ',
  ],
}

function corpus() {
  const pick = random(7)
  const one = (list) => list[pick(list.length)]
  return Array.from({ length: 600 }, (_, i) =>
    i % 4 === 3
      ? `${one(sentences.other)} ${one(sentences.other)}`
      : `${one(sentences.subject)} ${one(sentences.verb)} ${one(sentences.object)}${one(sentences.end)}`,
  )
}

/** Rules of nmt_nfkc for a few blocks: blanks and controls, Latin with marks, ligatures, circles, full and half width. */
function rules(tsv) {
  const blocks = [
    [0, 0x17f],
    [0x300, 0x303],
    [0x308, 0x308],
    [0x2000, 0x202f],
    [0x2060, 0x2070],
    [0x2460, 0x2473],
    [0x3000, 0x3000],
    [0xfb00, 0xfb06],
    [0xfeff, 0xfeff],
    [0xff01, 0xff9f],
    [0xfffd, 0xfffd],
  ]
  const kept = (code) => blocks.some(([from, to]) => code >= from && code <= to)
  return readFileSync(tsv, 'utf8')
    .split('\n')
    .map((line) => line.split('\t').slice(0, 2))
    .filter(
      ([from]) =>
        from && from.split(' ').length <= 2 && from.split(' ').every((hex) => kept(parseInt(hex, 16))),
    )
    .map((columns) => columns.join('\t'))
}

/** Ids below 480 in both models, many of them byte pieces; not the newline and its byte. */
function randomIds() {
  const pick = random(11)
  const newline = [3, 14, 15, 16, 17, 18]
  return Array.from({ length: 60 }, () =>
    Array.from({ length: 1 + pick(12) }, () => (pick(2) ? pick(280) : pick(480)))
      .filter((id) => !newline.includes(id))
      .join(' '),
  )
}

function collect(work) {
  const read = (name) => readFileSync(join(work, name), 'utf8').split('\n')
  const ids = (line) => line.split(' ').filter(Boolean).map(Number)
  return {
    note: 'Made by scripts/tokenizer-golden.sh with spm_encode and spm_decode 0.1.97 from tests/tokenizer/golden_lines.json.',
    models: models.map((folder) => {
      const name = folder.split('/').at(-1)
      const [encoded, decoded, random, randomDecoded] = ['ids', 'decoded', 'random', 'random_decoded'].map(
        (e) => read(`${name}.${e}`),
      )
      return {
        folder,
        encode: lines.map((text, i) => ({ text, ids: ids(encoded[i]), decoded: decoded[i] })),
        decode: random.slice(0, -1).map((line, i) => ({ ids: ids(line), text: randomDecoded[i] })),
      }
    }),
  }
}

const print = (list) => process.stdout.write(list.map((line) => `${line}\n`).join(''))
const [, , command, path] = process.argv
if (command === 'corpus') print(corpus())
else if (command === 'rules') print(rules(path))
else if (command === 'lines') print(lines)
else if (command === 'random-ids') print(randomIds())
else if (command === 'collect')
  process.stdout.write(JSON.stringify(collect(path)).replace(/\},\{/g, '},\n{') + '\n')
else throw new Error(`unknown command ${command}`)
