import { configDefaults, defineConfig } from 'vitest/config'

/** Tests run compiled, so that the threads and processes they start run the very files that ship. */
export default defineConfig({
  test: {
    include: ['dist/test/**/*.test.js'],
    exclude: configDefaults.exclude.filter((pattern) => !pattern.includes('dist')),
    globalSetup: ['dist/test/setup/global-redis.js'],
    setupFiles: ['dist/test/setup/no-leaks.js'],
    // What is not a test is loaded by Node itself.
    server: { deps: { external: [/\/dist\/(?!test\/)/] } },
    pool: 'forks',
    poolOptions: { forks: { execArgv: ['--enable-source-maps'] } },
    // Kills, stalls and failovers are real here: a machine that itself stalls for seconds gets a second chance, a developer does not.
    retry: process.env.CI ? 1 : 0,
    // A test that hangs must fail; one that starts processes on a busy machine must not.
    testTimeout: 180_000,
    hookTimeout: 180_000,
    teardownTimeout: 30_000,
  },
})
