/**
 * Python for what needs torch: the interpreter that is named, where it has the packages, else a virtual environment of its own
 * in the cache folder, made once for each set of requirements.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { RankmillError } from '../../../shared/errors.js'
import { isFile } from '../json-file.js'
import { shippedFolder } from '../model-reference.js'

const TRAINING = join(dirname(shippedFolder()), 'training')

/** What a script ends with where a package is missing. */
const LACKS_PACKAGES = 4
const UNSUITABLE = 3
/** Of what a script says on standard error, enough for its last line. */
const TAIL = 1 << 14

/** A script's packages, by the file that pins them. */
export type Requirements = 'export-requirements.txt' | 'quantize-requirements.txt'

export interface PythonOptions {
  /** The interpreter that is tried, and that the environment is made of. */
  readonly python: string
  readonly cacheDir: string
  readonly signal: AbortSignal
  /** Told of what takes minutes. */
  readonly say: (line: string) => void
}

/** Prints the names of the packages that are not there. */
const LACKING = `
import importlib.metadata as m, sys
for line in open(sys.argv[1]):
    name = line.strip().partition('==')[0]
    try:
        name and m.version(name)
    except m.PackageNotFoundError:
        print(name)
`
/** Written when everything is installed. */
const COMPLETE = 'complete'
const IN_ENVIRONMENT = process.platform === 'win32' ? ['Scripts', 'python.exe'] : ['bin', 'python']

/**
 * @returns an interpreter that has the packages
 * @throws RankmillError `python_unavailable`, with what pip says; the signal's reason
 */
export async function pythonWith(requirements: Requirements, options: PythonOptions): Promise<string> {
  const { python, cacheDir, signal, say } = options
  const file = join(TRAINING, requirements)
  const given = await output(python, ['-c', LACKING, file], signal)
  if (given.code !== 0) throw broken(python, given)
  if (given.stdout.trim() === '') return python
  // What exports can quantise, too.
  const able =
    requirements === 'export-requirements.txt' ? [requirements] : (['export-requirements.txt', requirements] as const)
  for (const other of able) {
    const made = await environmentFor(python, other, cacheDir)
    if (await isFile(join(made, COMPLETE))) return join(made, ...IN_ENVIRONMENT)
  }
  const folder = await environmentFor(python, requirements, cacheDir)
  const own = join(folder, ...IN_ENVIRONMENT)
  const missing = given.stdout.trim().split(/\s+/).join(', ')
  say(`${python} lacks ${missing}: making a virtual environment in ${folder}, once; this takes minutes`)
  if (missing.includes('torch'))
    say(
      'torch is large (6 GB on Linux, with its libraries for GPUs); PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu has a small one',
    )
  const made = await output(python, ['-m', 'venv', folder], signal)
  if (made.code !== 0) throw broken(python, made)
  // What pip finished before an interruption it does not fetch again.
  const installed = await output(own, ['-m', 'pip', 'install', '--disable-pip-version-check', '-r', file], signal)
  if (installed.code !== 0) throw broken(own, installed)
  await writeFile(join(folder, COMPLETE), '')
  return own
}

async function environmentFor(python: string, requirements: Requirements, cacheDir: string): Promise<string> {
  const key = createHash('sha256').update(
    JSON.stringify([python, await readFile(join(TRAINING, requirements), 'utf8')]),
  )
  return join(cacheDir, 'python', key.digest('hex').slice(0, 12))
}

/**
 * Runs one of the scripts in training/.
 *
 * @param input its standard input
 * @returns the JSON that it prints
 * @throws RankmillError `export_failed` with the script's own line, `python_unavailable`; the signal's reason
 */
export async function runPython(
  python: string,
  script: string,
  args: readonly string[],
  input: string,
  signal: AbortSignal,
): Promise<unknown> {
  const path = join(TRAINING, script)
  const said = await output(python, [path, ...args], signal, input)
  const last = lastLine(said.stderr)
  if (said.code === LACKS_PACKAGES) throw broken(python, said)
  if (said.code === UNSUITABLE) throw new RankmillError('export_failed', last)
  if (said.code !== 0) {
    const end = said.signal ? `was ended by ${said.signal} (for want of memory?)` : `ended with ${said.code}: ${last}`
    throw new RankmillError('export_failed', `${path} ${end}`)
  }
  try {
    return JSON.parse(lastLine(said.stdout))
  } catch (cause) {
    throw new RankmillError('export_failed', `${path}: what it printed is not understood`, {}, { cause })
  }
}

interface Output {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

async function output(command: string, args: readonly string[], signal: AbortSignal, input = ''): Promise<Output> {
  signal.throwIfAborted()
  const child = spawn(command, args, { signal, windowsHide: true, stdio: ['pipe', 'pipe', 'pipe'] })
  let [stdout, stderr] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(-TAIL)
  })
  // One that ends without reading says why by itself.
  child.stdin.on('error', () => undefined).end(input)
  try {
    const [code, by] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
    return { code, signal: by, stdout, stderr }
  } catch (cause) {
    signal.throwIfAborted()
    const why = (cause as NodeJS.ErrnoException).code ?? String(cause)
    throw new RankmillError(
      'python_unavailable',
      `--python: "${command}" cannot be run (${why})`,
      { param: 'python' },
      { cause },
    )
  }
}

function broken(python: string, { code, stderr, stdout }: Output): RankmillError {
  const last = lastLine(stderr) || lastLine(stdout) || `it ended with ${code}`
  return new RankmillError('python_unavailable', `--python: ${python}: ${last}`, { param: 'python' })
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1)?.trim() ?? ''
}
