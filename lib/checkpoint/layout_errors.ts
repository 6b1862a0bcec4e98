import { OpenMoeError, type ErrorCode } from '../errors.ts'
import { isMoeLayer, type OpenMoeConfig } from '../model/config.ts'
import type { Side } from './canonical_parameters.ts'
import { formatShape, quoteName, type CheckpointIndex, type TensorEntry } from './tensor_index.ts'

export interface Mismatch {
  index: CheckpointIndex
  config: OpenMoeConfig
  missing: string[]
  shapes: { entry: TensorEntry; sides: Side[] }[]
  surplus: string[]
}

const MOST_LISTED = 5

/** Throws when a checkpoint and its config do not fit. Wrong shapes come first: they say best what is wrong in config.json. */
export function throwMismatch(mismatch: Mismatch): void {
  const { missing, shapes, surplus, index } = mismatch
  const file = index.files[0]?.path ?? 'the checkpoint'
  const fail = (code: ErrorCode, message: string): never => {
    throw new OpenMoeError(code, `${file}: ${message}`)
  }
  if (shapes.length > 0) {
    const listed = shapes.slice(0, MOST_LISTED).map(describeShape)
    fail(
      'ERR_OPENMOE_TENSOR_SHAPE',
      `${count(shapes.length, 'tensor')} of another shape than config.json gives: ${listed.join('; ')}${more(shapes)}. ` +
        'Use the config.json that came with these weights, or correct the fields named.',
    )
  }
  const explanation = explainStructure(mismatch)
  if (missing.length > 0) {
    fail(
      'ERR_OPENMOE_TENSOR_MISSING',
      `${count(missing.length, 'tensor')} missing: ${list(missing)}.${explanation} ` +
        (explanation ? 'Correct config.json.' : 'Download the checkpoint again, all of its files.'),
    )
  }
  if (surplus.length > 0) {
    fail(
      'ERR_OPENMOE_TENSOR_SURPLUS',
      `${count(surplus.length, 'tensor')} that the model of config.json has no place for: ${list(surplus)}.${explanation} ` +
        (explanation
          ? 'Correct config.json.'
          : 'Remove them when exporting, or use the config.json of these weights.'),
    )
  }
}

function describeShape({ entry, sides }: Mismatch['shapes'][number]): string {
  const expected = sides.map(({ value }) => value)
  const meaning = sides.map(({ field, times }) => (times === 1 ? field : `${times} x ${field}`)).join(', ')
  const said = `${quoteName(entry.name)} is ${formatShape(entry.shape)}, expected ${formatShape(expected)} = [${meaning}]`
  const wrong = sides.findIndex(({ value }, axis) => value !== entry.shape[axis])
  const side = sides[wrong]
  const found = entry.shape[wrong]
  if (entry.shape.length !== sides.length || !side || found === undefined) return said
  return `${said}: contradicts ${hint(side, found)}`
}

function hint({ field, times, value }: Side, found: number): string {
  const stated = value / times
  const heads =
    field === 'head_dim' ? ` (or the number of heads: heads x head_dim is ${found} in the file)` : ''
  if (found === 0 || found % times !== 0) return `${field} ${stated}${heads}`
  return `${field} ${stated}, the file has ${found / times}${heads}`
}

/** When whole layers are missing or left over, the numbers in config.json are wrong, not single tensors. */
function explainStructure({ index, config }: Mismatch): string {
  const layers = new Set<number>()
  const routers = new Set<number>()
  for (const name of index.tensors.keys()) {
    const match = /^model\.layers\.(\d{1,6})\.(mlp\.gate_weight$|mlp\.gate\.weight$)?/.exec(name)
    if (!match) continue
    layers.add(Number(match[1]))
    if (match[2]) routers.add(Number(match[1]))
  }
  const found: string[] = []
  let layerCount = 0
  for (const layer of layers) layerCount = Math.max(layerCount, layer + 1)
  if (layerCount !== config.numHiddenLayers) {
    found.push(`config.json says num_hidden_layers ${config.numHiddenLayers}, the file has ${layerCount}`)
  }
  const unlike = [...layers].some((i) => routers.has(i) !== isMoeLayer(config, i))
  if (unlike && routers.size > 0) {
    const where = [...routers]
      .sort((a, b) => a - b)
      .slice(0, MOST_LISTED)
      .join(', ')
    found.push(
      `config.json says moe_layer_interval ${config.moeLayerInterval}, the file has routers in layers ${where}`,
    )
  }
  return found.length > 0 ? ` ${found.join('; ')}.` : ''
}

function list(names: string[]): string {
  return names.slice(0, MOST_LISTED).map(quoteName).join(', ') + more(names)
}

function more(items: unknown[]): string {
  return items.length > MOST_LISTED ? ` and ${items.length - MOST_LISTED} more` : ''
}

function count(items: number, noun: string): string {
  return `${items} ${noun}${items === 1 ? '' : 's'}`
}
