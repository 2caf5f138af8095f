/**
 * Runs when Rankmill is installed, before the install scripts of all packages (npm's order).
 *
 * onnxruntime-node's own script downloads CUDA's libraries on Linux, and fails the whole installation where their host is
 * not reached, although only `--device cuda` needs them. So it is run here first: where it succeeds nothing is left for it
 * to do, and where it fails, empty files in the place of what it wanted keep it from failing again. README.md says how
 * they are brought later.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const OWN = new URL('..', import.meta.url)

/** The files that the script would bring for this system and that are not there. */
function missingFiles(folder) {
  const { requirements, manifests } = createRequire(join(folder, 'package.json'))('./script/install-metadata.js')
  const system = `${process.platform}/${process.arch}`
  return (requirements[system] ?? [])
    .flatMap((name) => Object.keys(manifests[`${system}:${name}`] ?? {}))
    .map((file) => join(folder, 'bin', 'napi-v6', system, file))
    .filter((file) => !existsSync(file))
}

try {
  // In a checkout package-lock.json keeps the script from running, and this package has no node_modules around it.
  if (!existsSync(new URL('tsconfig.json', OWN))) {
    const folder = dirname(createRequire(OWN).resolve('onnxruntime-node/package.json'))
    if (missingFiles(folder).length > 0) {
      try {
        execFileSync(process.execPath, [join(folder, 'script', 'install.js')], { stdio: 'ignore' })
      } catch {
        for (const file of missingFiles(folder)) writeFileSync(file, '')
      }
    }
  }
} catch {
  // Another layout of packages, or another version: onnxruntime-node decides by itself.
}
