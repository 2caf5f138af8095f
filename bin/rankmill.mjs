#!/usr/bin/env node
/** The command `rankmill`. In a checkout it installs and builds first where that is needed. */
import { existsSync } from 'node:fs'

const main = () => import('../dist/cli/main.js')
// Sources do not ship: an installed package is ready as it is.
const inCheckout = existsSync(new URL('../tsconfig.json', import.meta.url))
if (inCheckout) {
  const { prepared } = await import('../scripts/prepare.mjs')
  await prepared(main)
} else {
  await main()
}
