import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['tests/**/*.test.ts'],
    globalSetup: ['tests/support/build_emulator.ts'],
    pool: 'forks', // a native crash must cost one file, not the run
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
})
