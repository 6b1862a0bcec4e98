// Bugs that GPU kernels are known for, planted one at a time. Each is an edit of a source and the part of a native test
// that must notice. An edit whose text is no longer there is an error: the table follows the kernels.
import type { Mutant, Patch, Program } from './gpu_program.ts'
import { MOE_MUTANTS } from './moe_mutants.ts'
import { WRAPPER_MUTANTS } from './wrapper_mutants.ts'

const HOPPER = 'native/gpu/hopper_gemm.h'
const PORTABLE = 'native/gpu/portable_gemm.h'
const TILE = 'native/gpu/gemm_tile.h'
const TABLES = 'native/gpu/expert_tiles.h'
const LAUNCH = 'native/gpu/grouped_launch.h'
const PLAIN_OP = 'native/ops/grouped_gemm.cu'
const SWIGLU_OP = 'native/ops/grouped_gemm_swiglu.cu'

const SWIGLU: Program = { test: 'gpu_gemm_test', kernels: [SWIGLU_OP, PLAIN_OP] }
const PLAIN: Program = { test: 'gpu_gemm_test', kernels: [PLAIN_OP, SWIGLU_OP] }

/** Of a header, noticed through one of the kernels that include it. */
function gemm(name: string, file: string, edits: Patch['edits'], part = 'cases', program = SWIGLU): Mutant {
  return { name, file, edits, part, program }
}
function plainGemm(name: string, file: string, edits: Patch['edits'], part = 'cases'): Mutant {
  return gemm(name, file, edits, part, PLAIN)
}
/** Without some text. */
const without = (...texts: string[]): Patch['edits'] => texts.map((text) => [text, ''] as const)

/** The ring of the Hopper kernel and its tensor core's rules. */
const PIPELINE = [
  gemm('fewer bytes expected than copied', HOPPER, [['kWeightBytes + token_bytes)', 'kWeightBytes)']]),
  gemm('a stage released before its products are done', HOPPER, [
    ['wgmma_wait<1>();\n      if (k > 0) release(previous);', 'release(ring.stage);\n      wgmma_wait<1>();'],
    ['wgmma_wait_all(sums);\n    release(previous);', 'wgmma_wait_all(sums);'],
  ]),
  gemm('a stage released while its products run', HOPPER, [
    ['if (k > 0) release(previous);', 'release(ring.stage);'],
    ['wgmma_wait_all(sums);\n    release(previous);', 'wgmma_wait_all(sums);'],
  ]),
  gemm('no wait for an empty stage', HOPPER, without('barrier_wait(empty + ring.stage, ring.parity ^ 1);')),
  gemm('no wait for a full stage', HOPPER, [
    ['barrier_wait(full + ring.stage, ring.parity);\n      const', 'const'],
  ]),
  gemm('a phase that is not flipped', HOPPER, without('parity ^= 1;')),
  gemm('a wrong number of arrivals', HOPPER, [
    ['Shape::kConsumers * (kWarpgroup / kWarp)', 'Shape::kConsumers'],
  ]),
  gemm('every lane releases a stage', HOPPER, [['if (lane_id() == 0) barrier_arrive', 'barrier_arrive']]),
  gemm('no fence after making barriers', HOPPER, without('fence_barrier_init();')),
  gemm('barriers used before they are made', TABLES, [['  }\n  block_sync();\n}', '  }\n}']]),
  gemm('a wrong stride between groups of rows', SWIGLU_OP, [['= 24 * kRowBytes', '= 8 * kRowBytes']]),
  gemm('accumulators that overlap', PLAIN_OP, [['= 64 * kRowBytes', '= 8 * kRowBytes']]),
  gemm('sums that are not cleared', HOPPER, without('clear(sums);')),
  gemm('no step along k', HOPPER, [['matrix_descriptor(x + step * 32,', 'matrix_descriptor(x,']]),
  gemm('no wgmma_fence', HOPPER, without('wgmma_fence();')),
  gemm('no wgmma_commit', HOPPER, without('wgmma_commit();')),
  gemm('sums read before the last products', HOPPER, [['wgmma_wait_all(sums);', 'wgmma_wait<1>();']]),
  gemm('the second consumer takes the tokens of the first', HOPPER, [
    ['tokens(ring.stage) + first_token * kRowBytes', 'tokens(ring.stage)'],
  ]),
  plainGemm('the first consumer takes more tokens than there are', HOPPER, [
    ['round_up(rows / 2, kGroupRows)', 'round_up(rows / 2, 16)'],
  ]),
  plainGemm(
    'a consumer without tokens loses step with the ring',
    HOPPER,
    without('skip(s.k_end - s.k_begin);'),
  ),
]

/** From registers to the panel. */
const EPILOGUE = [
  gemm('staged rows without the swizzle', TILE, [
    [
      'rows + swizzled(8 * (j + m / 2) + lane % 8, 16 * warp + 8 * (m % 2))',
      'rows + (8 * (j + m / 2) + lane % 8) * kRowBytes + (16 * warp + 8 * (m % 2)) * 2',
    ],
  ]),
  gemm('a store before all rows are staged', HOPPER, [
    ['fence_async_shared();\n    consumer_sync(consumer);', 'fence_async_shared();'],
  ]),
  gemm('no fence before a bulk store', HOPPER, without('fence_async_shared();')),
  gemm('staging reused while it is stored', HOPPER, without('if (issuer) bulk_wait_read();')),
  gemm('only one thread waits for staging', HOPPER, [
    ['have left staging\n    consumer_sync(consumer);', 'have left staging'],
  ]),
  gemm(
    'a block that ends before its stores',
    HOPPER,
    without('if (thread_id() % kWarpgroup == 0) bulk_wait();'),
  ),
  gemm('no commit of the stores', HOPPER, without('bulk_commit();')),
  plainGemm('a block of features past the last', TILE, [['column < a.out_blocks ?', 'true ?']]),
  gemm('silu on the wrong half', SWIGLU_OP, [
    ['a = sums[0][i], b = sums[1][i]', 'a = sums[1][i], b = sums[0][i]'],
  ]),
  gemm('stored pairs of features instead of tokens', TILE, [
    ['pair(4 * j), pair(4 * j + 2), pair(4 * j + 4)', 'pair(4 * j), pair(4 * j + 4), pair(4 * j + 2)'],
  ]),
]

/** Which rows, which tile, which part of it. */
const SCHEDULE = [
  gemm('experts that do not start at multiples of 8', TABLES, [
    ['static_cast<int>(round_up(rows, kGroupRows))', 'rows'],
  ]),
  gemm('a tile for an expert without rows', TABLES, [
    ['rows == 0 ? 0 : (rows + tile', 'rows == 0 ? 1 : (rows + tile'],
  ]),
  gemm('tiles that end inside a group of 8', TABLES, [['return (even + 15) / 16 * 16;', 'return even;']]),
  gemm('a scan that adds a lane to itself', TABLES, [['if (lane_id() >= step) value', 'value']]),
  gemm('parts of a tile that share a place', TILE, [['(block * 2 + first)', '(block * 2)']]),
  plainGemm(
    'every border adds up its tile',
    TILE,
    without(' || work.share_begin(border - 1, blocks) > begin'),
  ),
  gemm('a part that is left out', TILE, [
    ['work.share_begin(block, blocks) < stop', 'work.share_begin(block + 1, blocks) < stop'],
  ]),
  gemm('parts of another width than they were stored', LAUNCH, [
    ['add_split_tiles<Weights, 16, 32, 64>', 'add_split_tiles<Weights, 8, 16, 32, 64>'],
  ]),
  gemm('parts read before the kernel that makes them ends', TILE, without('launch_wait();')),
  gemm('a panel read before the kernel that makes it ends', HOPPER, without('launch_wait();')),
  gemm(
    'weight offsets of 32 bits',
    TILE,
    [
      ['return a.weight + (', 'return a.weight + (int)(('],
      ['+ k) * kBlockBytes;', '+ k) * kBlockBytes);'],
    ],
    'far',
  ),
  plainGemm(
    'token offsets of 32 bits',
    TILE,
    [
      [
        'a.x + (k * a.panel_rows + s.panel_row) * kRowBytes',
        'a.x + (int)((k * a.panel_rows + s.panel_row) * kRowBytes)',
      ],
    ],
    'far',
  ),
  plainGemm(
    'output offsets of 32 bits',
    TILE,
    [
      [
        'a.out + (column * a.panel_rows + s.panel_row) * kRowBytes',
        'a.out + (int)((column * a.panel_rows + s.panel_row) * kRowBytes)',
      ],
    ],
    'far',
  ),
  plainGemm(
    'offsets past the rows',
    TABLES,
    without('offset = offset > num_rows ? num_rows : offset;'),
    'hostile',
  ),
  plainGemm(
    'offsets that go backwards',
    TABLES,
    [['warp_max_scan(offset > highest ? offset : highest)', 'offset']],
    'hostile',
  ),
]

/** The path of every device from sm_80 on. */
const SM80 = [
  gemm('a stage used before its copies end', PORTABLE, [
    ['copy_async_wait<Shape::kStages - 2>', 'copy_async_wait<Shape::kStages - 1>'],
  ]),
  gemm('groups that stop counting stages', PORTABLE, [
    ['kRowBytes);\n    }\n    copy_async_commit();', 'kRowBytes);\n      copy_async_commit();\n    }'],
  ]),
  gemm('a stage loaded while others multiply it', PORTABLE, [
    ['block_sync();  // everybody', '// everybody'],
  ]),
  gemm('rows copied out before all are staged', PORTABLE, [
    ['shared, Shape::kTokens);\n      block_sync();\n      copy', 'shared, Shape::kTokens);\n      copy'],
  ]),
  gemm('ldmatrix rows in the order of lanes', PORTABLE, [
    ['lane / 16 * 8 + lane % 8, step + lane / 8 % 2 * 8', 'lane % 16, step + lane / 16 * 8'],
  ]),
  gemm('registers of the wrong matrix', SWIGLU_OP, [
    ['mma_m16n8k16(up[i], up[i + 1], first[next]', 'mma_m16n8k16(up[i], up[i + 1], second[next]'],
  ]),
]

export const MUTANTS: Mutant[] = [
  ...PIPELINE,
  ...EPILOGUE,
  ...SCHEDULE,
  ...SM80,
  ...MOE_MUTANTS,
  ...WRAPPER_MUTANTS,
]
