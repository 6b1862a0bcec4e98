import { defineConfig } from 'vitest/config'

// bench/ imports the library as #lib/...: the sources under this condition, dist/ without it (package.json, imports).
const conditions = ['openmoe-source', 'node', 'import', 'module', 'default']

export default defineConfig({
  ssr: { resolve: { conditions } },
  test: {
    include: ['tests/**/*.test.ts'],
    globalSetup: ['tests/support/build_emulator.ts'],
    pool: 'forks', // a native crash must cost one file, not the run
    maxWorkers: '100%', // one less by default, which is half of a machine with two cores
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
