/** What installing relies on: in this checkout, and of the package that ships. `.ci/install` tries the whole. */
import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'

const read = (file: string) => JSON.parse(readFileSync(file, 'utf8'))

it("keeps onnxruntime-node's download out of `npm ci`", () => {
  // npm runs the scripts of packages that the lockfile marks so. Where npm has set the mark again, take it out.
  expect(read('package-lock.json').packages['node_modules/onnxruntime-node'].hasInstallScript).toBeUndefined()
})

it('installs with --engine-strict on the oldest Node that it says it runs on', () => {
  // light-my-request, which only Fastify uses, is held at 6.6: later ones need a cookie that wants Node 22.
  const { engines } = read('package.json')
  const [major] = engines.node.match(/\d+/)
  const tooNew = Object.entries<{ dev?: true; optional?: true; engines?: { node?: string } }>(
    read('package-lock.json').packages,
  ).filter(([, one]) => {
    const versions = one.engines?.node?.match(/^\s*>=\s*(\d+)/)
    return !one.dev && !one.optional && versions && Number(versions[1]) > Number(major)
  })
  expect(tooNew.map(([path]) => path)).toEqual([])
})
