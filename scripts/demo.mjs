/** `npm run demo`: installs and builds what is missing, then `rankmill demo` with the arguments passed on. */
process.argv.splice(2, 0, 'demo')
await import('../bin/rankmill.mjs')
