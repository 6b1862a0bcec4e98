// Bugs planted in the small kernels of the MoE layer, as mutants.ts has them for the GEMMs.
import type { Mutant, Patch } from './gpu_program.ts'

const OPS = ['moe_router', 'moe_gating', 'moe_routing', 'moe_permute', 'moe_unpermute'] as const
const GEMMS = ['native/ops/grouped_gemm.cu', 'native/ops/grouped_gemm_swiglu.cu'] // launch_table.h names them
const PACK = 'native/gpu/pack_weights.cu'
const file = (op: (typeof OPS)[number]): string => `native/ops/${op}.cu`

/** Of an op's kernel, or of a header, noticed through the first of `by`. */
function plant(part: string, name: string, where: string, edits: Patch['edits'], by: string = where): Mutant {
  const others = [...OPS.map(file), ...GEMMS, PACK].filter((kernel) => kernel !== by)
  return { name, file: where, edits, part, program: { test: 'gpu_moe_test', kernels: [by, ...others] } }
}
const without = (...texts: string[]): Patch['edits'] => texts.map((text) => [text, ''] as const)

const SOFTMAX = 'native/gpu/top_k_softmax.h'
const VECTOR = 'native/gpu/vector.h'
const ROWS = 'native/gpu/panel_rows.h'
const [ROUTER, GATING, ROUTING, PERMUTE, UNPERMUTE] = [
  file('moe_router'),
  file('moe_gating'),
  file('moe_routing'),
  file('moe_permute'),
  file('moe_unpermute'),
]

const CHOICE = [
  plant('router', 'a choice before all logits are there', ROUTER, without('block_sync();')),
  plant('router', 'a logit of half the lanes', ROUTER, [['mask = kWarp / 2', 'mask = kWarp / 4']]),
  plant(
    'router',
    'numbers past the end of a row',
    VECTOR,
    [['col + j < length ? load(row + col + j) : 0.0f', 'load(row + col + j)']],
    ROUTER,
  ),
  plant(
    'gating',
    'ties that go to the highest index',
    SOFTMAX,
    [['a.expert < b.expert', 'a.expert > b.expert']],
    GATING,
  ),
  plant(
    'gating',
    'a sum over the experts of one lane',
    SOFTMAX,
    without('sum += shuffle_xor(sum, mask);'),
    GATING,
  ),
  plant(
    'gating',
    'the same expert twice',
    SOFTMAX,
    [['next_best(logit, num_experts, choice)', 'next_best(logit, num_experts, Choice{0, -1})']],
    GATING,
  ),
  plant(
    'gating',
    'a best that not all lanes agree on',
    SOFTMAX,
    without('if (is_before(other, best)) best = other;'),
    GATING,
  ),
]

const SORT = [
  plant('routing', 'a kernel that does not wait for the ones before', ROUTING, without('launch_wait();')),
  plant(
    'routing',
    'runs that do not continue the ones before',
    ROUTING,
    without('counts[w * num_experts + e] = sum;'),
  ),
  plant('routing', 'lanes of a step that share a rank', ROUTING, [['counted + before)', 'counted)']]),
  plant('routing', 'idle lanes that count', ROUTING, [['0x80000000u | lane_id()', '0u']]),
  plant('routing', 'counts changed before all lanes have read them', ROUTING, [
    ['warp_sync();\n      if (kWrite', 'if (kWrite'],
  ]),
  plant('routing', 'counts read before they are changed', ROUTING, [
    [
      'counts[expert] = counted + popcount(same);\n      warp_sync();',
      'counts[expert] = counted + popcount(same);',
    ],
  ]),
  plant('routing', 'tokens that claim both their slots at once', ROUTING, [
    ['(first + position % tokens) * a.top_k + position / tokens', 'first * a.top_k + position'],
  ]),
  plant('routing', 'ranks that run on from group to group', ROUTING, [[' - load(r.seen + at)', '']]),
  plant('routing', 'rows of groups that overlap', ROUTING, [
    ['first[expert] + load(r.start + at) + rank', 'first[expert] + rank'],
  ]),
  plant('routing', 'one choice more than the capacity', ROUTING, [['rank < capacity', 'rank <= capacity']]),
  plant('routing', 'dropped choices that take rows', ROUTING, [
    ['claimed > capacity ? capacity : claimed', 'claimed > capacity ? claimed : claimed'],
  ]),
  plant('routing', 'empty groups at the end forgotten', ROUTING, [
    ['note_groups(end);', 'note_groups(end + 1);'],
  ]),
  plant('routing', 'sums before every warp has counted', ROUTING, [
    ['walk<false>(r, order, begin, end, own);\n  block_sync();', 'walk<false>(r, order, begin, end, own);'],
  ]),
  plant('routing', 'rows before every warp has its ranks', ROUTING, [
    ['walk<true>(r, order, begin, end, own);\n  block_sync();', 'walk<true>(r, order, begin, end, own);'],
  ]),
  plant('routing', 'rows before the experts are summed', ROUTING, [
    ['sum_over_experts(a, first);\n  block_sync();', 'sum_over_experts(a, first);'],
  ]),
  plant('faults', 'an expert nobody has', ROUTING, [['expert >= 0 && expert < r.op.num_experts', 'true']]),
  plant('faults', 'groups that go backwards', ROUTING, [['offset < before || ', '']]),
]

const ROWS_MOVED = [
  plant(
    'permute',
    'rows where experts are not apart',
    ROWS,
    [['return int64_t{table.panel_start[low]} + row - table.first_row[low];', 'return row;']],
    PERMUTE,
  ),
  plant('permute', 'features past the last left as they were', PERMUTE, [
    ['col < padded;', 'col < a.hidden_size;'],
  ]),
  plant('permute', 'a panel without the swizzle', PERMUTE, [
    ['panel_offset(rows, at, col)', '(col / 64 * rows + at) * 128 + col % 64 * 2'],
  ]),
  plant('permute', 'only the first copy of a token', PERMUTE, [['k < a.top_k; ++k) {', 'k < 1; ++k) {']]),
  plant(
    'faults',
    'rows of no expert',
    ROWS,
    without('if (row < table.first_row[0] || row >= table.first_row[num_experts]) return -1;'),
    UNPERMUTE,
  ),
  plant('faults', 'offsets nobody looks at', PERMUTE, [
    ['if (block_id() == 0) check_offsets(a, fault);', ''],
  ]),
  plant('unpermute', 'copies that are not weighed', UNPERMUTE, [
    ['fma(weight, float_of(chunk.word[j] << 16)', 'fma(1.0f, float_of(chunk.word[j] << 16)'],
  ]),
  plant('unpermute', 'dropped copies that are added', UNPERMUTE, without('if (at < 0) continue;')),
  plant('unpermute', 'a residual that is forgotten', UNPERMUTE, [['if (a.x) {', 'if (false) {']]),
  plant('unpermute', 'the last choice first', UNPERMUTE, [
    [
      'const int64_t choice = token * a.top_k + k;',
      'const int64_t choice = token * a.top_k + a.top_k - 1 - k;',
    ],
  ]),
  plant('packing', 'blocks of rows that all go to the first row', PACK, [['a.row_offset + row', 'row']]),
  plant('packing', 'blocks of columns that all go to the first', PACK, [['a.col_offset + col', 'col']]),
  plant('packing', 'numbers past the end of a row of weights', PACK, [
    ['if (col + j < a.cols) chunk', 'chunk'],
  ]),
]

export const MOE_MUTANTS: Mutant[] = [...CHOICE, ...SORT, ...ROWS_MOVED]
