/** The import table of CONTRIBUTING.md: who may import whom among the top-level folders. */
const FOLDERS = ['shared', 'producer', 'server', 'worker', 'monitoring', 'cli', 'bench', 'test']

const MAY_IMPORT = {
  shared: [],
  monitoring: ['shared'],
  producer: ['shared', 'monitoring'],
  worker: ['shared', 'monitoring'],
  server: ['shared', 'monitoring', 'producer'],
}

const folderRules = Object.entries(MAY_IMPORT).map(([folder, allowed]) => {
  const forbidden = FOLDERS.filter((other) => other !== folder && !allowed.includes(other))
  return {
    name: `${folder}-imports`,
    comment: `${folder}/ may import ${allowed.length > 0 ? allowed.map((name) => `${name}/`).join(' and ') : 'nothing local'}`,
    severity: 'error',
    from: { path: `^${folder}/` },
    to: { path: `^(${forbidden.join('|')})/` },
  }
})

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    ...folderRules,
    {
      name: 'no-cycles',
      comment: 'a cycle has no first file to read, be it of types alone',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'nothing-imports-tests',
      comment: 'what ships must not need what does not',
      severity: 'error',
      from: { pathNot: '^(test|bench)/' },
      to: { path: '^(test|bench)/' },
    },
    {
      name: 'resolvable',
      comment: 'an import that leads nowhere',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: 'only-dependencies',
      comment: 'what ships must not import what only developers install',
      severity: 'error',
      from: { path: '^(shared|producer|server|worker|monitoring|cli)/' },
      to: { dependencyTypes: ['npm-dev', 'npm-no-pkg', 'npm-unknown'], pathNot: '@types/' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    // Programs of their own, with packages of their own.
    exclude: { path: '^test/clients/' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'require', 'node', 'default', 'types'],
    },
  },
}
