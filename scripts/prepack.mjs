/** `npm pack` and `npm publish`: what ships is compiled from the sources at hand, whatever lay in dist before. */
import { prepared } from './prepare.mjs'

await prepared(async () => undefined)
