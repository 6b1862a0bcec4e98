// Scaffolds the slice of a new op: contract, CPU kernel, TypeScript, reference twin, test, bench.
// Usage: npm run new-op -- my_op
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const op = process.argv[2] ?? ''
if (!/^[a-z][a-z0-9_]*$/.test(op)) {
  console.error('usage: npm run new-op -- name_in_snake_case')
  process.exit(1)
}
const camel = op.replace(/_(\w)/g, (_, letter) => letter.toUpperCase())
const pascal = camel[0].toUpperCase() + camel.slice(1)

const files = {
  [`native/ops/${op}.h`]: `// out = x: say here what ${op} computes, with the section of the spec or the equation of the paper.
#pragma once

#include "program/op.h"

namespace openmoe {

struct ${pascal} {
  In x;     // [num_tokens, hidden_size]
  Out out;  // [num_tokens, hidden_size]
  int num_tokens, hidden_size;
};

inline constexpr Field k${pascal}Fields[] = {
    FIELD(${pascal}, x, "f32[num_tokens, hidden_size]"),
    FIELD(${pascal}, out, "f32[num_tokens, hidden_size]"),
    FIELD(${pascal}, num_tokens),
    FIELD(${pascal}, hidden_size),
};

}  // namespace openmoe
`,
  [`native/ops/${op}.cpp`]: `// launch   rows_per_chunk rows per chunk
// traffic  read x, write out: memory bound
#include "ops/${op}.h"

#include "device/cpu.h"
#include "support/simd.h"

namespace openmoe::OPENMOE_ISA {

void ${op}(const ${pascal}& a, Cpu& cpu) {
  cpu.parallel_for(a.num_tokens, rows_per_chunk(a.hidden_size), [&](int64_t begin, int64_t end, int) {
    const float* x = a.x.as<float>() + begin * a.hidden_size;
    float* out = a.out.as<float>() + begin * a.hidden_size;
    for_vectors((end - begin) * a.hidden_size, [&](int64_t i, auto n) { store(out + i, load(x + i, n), n); });
  });
}

}  // namespace openmoe::OPENMOE_ISA
`,
  [`lib/ops/${op}.ts`]: `import type { Program, TensorLike } from '../program.ts'
import type { Tensor } from '../tensor.ts'
import { expectTensor } from './checks.ts'

/**
 * Says what it computes, and from where.
 * @param x f32 [num_tokens, hidden_size]
 * @returns f32 [num_tokens, hidden_size]
 */
export function ${camel}(p: Program, x: TensorLike): Tensor {
  const [numTokens = 0, hiddenSize = 0] = expectTensor('${op}', 'x', x, 'f32', ['num_tokens', 'hidden_size'])
  const out = p.alloc('f32', [numTokens, hiddenSize])
  p.record('${op}', { x: p.use(x), out }, { numTokens, hiddenSize })
  return out
}
`,
  [`tests/reference/${op}.ts`]: `/** Slow and obvious, in f64, and shares no code with the op. */
export function ${camel}(x: ArrayLike<number>): Float64Array {
  return Float64Array.from(x)
}
`,
  [`tests/ops/${op}.test.ts`]: `import { expect, it } from 'vitest'
import { ${camel} } from '../../lib/ops/${op}.ts'
import { ${camel} as reference } from '../reference/${op}.ts'
import { describeOp, nmse, randomTensor } from './describe_op.ts'

describeOp('${op}', ({ run }) => {
  it.each([[1, 1], [3, 17], [33, 768]])('agrees with the reference at %i x %i', async (numTokens, hiddenSize) => {
    const x = randomTensor(1, [numTokens, hiddenSize])
    const { data } = await run((p) => ${camel}(p, x))
    expect(nmse(data, reference(x.data))).toBeLessThan(2e-12)
  })
})
`,
  [`bench/ops/${op}.bench.ts`]: `import { ${camel} } from '#lib/ops/${op}'
import type { OpBench } from '../ops.ts'
import { randomOn } from './random.ts'

export const bench: OpBench = {
  async cases(device, { hiddenSize, tokens: counts }) {
    return Promise.all(
      counts.map(async (tokens) => {
        const x = await randomOn(device, 'f32', [tokens, hiddenSize])
        return {
          name: \`t=\${tokens}\`,
          record: (p) => ${camel}(p, x),
          bytes: 2 * tokens * hiddenSize * 4,
          flops: 0,
          bound: 'memory',
        }
      }),
    )
  },
}
`,
}

for (const [name, text] of Object.entries(files)) {
  const path = join(root, name)
  if (existsSync(path)) {
    console.error(`new-op: ${name} exists; choose another name`)
    process.exit(1)
  }
  writeFileSync(path, text)
  console.log(`wrote ${name}`)
}

const list = join(root, 'native/ops/op_list.h')
let text = readFileSync(list, 'utf8')
text = text.replace('#pragma once\n\n', `#pragma once\n\n#include "ops/${op}.h"\n`)
text = text.trimEnd() + ` \\\n  X(${op}, ${pascal})\n`
writeFileSync(list, text)
const index = join(root, 'lib/ops/index.ts')
writeFileSync(index, `${readFileSync(index, 'utf8')}export { ${camel} } from './${op}.ts'\n`)
console.log(
  'added it to native/ops/op_list.h and lib/ops/index.ts; next: npm run build, then npx vitest run tests/ops/' +
    op +
    '.test.ts',
)
