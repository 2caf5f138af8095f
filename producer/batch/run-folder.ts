/**
 * The folder beside an output file: who writes to it, and how far it is. One runner at a time holds the lease. Each lease
 * has a number, higher than all before, and whatever a runner writes here carries that number: a runner that slept through
 * its lease finds a higher one and stops, and what it may have written until then is in files that nobody reads any more.
 */
import { constants } from 'node:fs'
import { access, copyFile, mkdir, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import { isKnownDead, ownIdentity, type ProcessIdentity } from '../../shared/process-identity.js'

const NUMBERED = /^(.+)\.(\d+)$/

export class RunFolder {
  readonly path: string
  readonly #output: string
  readonly #number: number
  readonly #timer: NodeJS.Timeout

  /**
   * Takes the lease on an output.
   *
   * @param leaseMs a holder that gave no sign for so long has lost its lease
   * @throws RankmillError `output_in_use`, `output_unwritable`
   */
  static async claim(output: string, leaseMs: number): Promise<RunFolder> {
    try {
      const path = `${output}.rankmill`
      await access(dirname(output), constants.W_OK)
      await mkdir(path, { recursive: true })
      const numbers = (await readdir(path)).flatMap((name) => Number(NUMBERED.exec(name)?.[2] ?? []))
      const last = Math.max(0, ...numbers)
      const holder = await holderOf(join(path, `lease.${last}`), leaseMs)
      if (holder === 'alive') throw inUse(output)
      const lease = join(path, `lease.${last + 1}`)
      await claimLease(lease, output)
      // A holder that only slept still has the file open: it keeps that one, and the run goes on in a copy.
      if (holder === 'expired') await replaceByCopy(output)
      return new RunFolder(path, output, last + 1, leaseMs)
    } catch (error) {
      throw unwritable(output, error)
    }
  }

  private constructor(path: string, output: string, number: number, leaseMs: number) {
    this.path = path
    this.#output = output
    this.#number = number
    this.#timer = setInterval(() => void this.#renew().catch(() => undefined), leaseMs / 4).unref()
  }

  /** Path of this lease's own file under a name. */
  own(name: string): string {
    return join(this.path, `${name}.${this.#number}`)
  }

  /** Path of the newest file under a name, of this lease or an earlier one; undefined where there is none. */
  async newest(name: string): Promise<string | undefined> {
    const numbers = (await readdir(this.path)).flatMap((file) => {
      const [, found, number] = NUMBERED.exec(file) ?? []
      return found === name && Number(number) <= this.#number ? Number(number) : []
    })
    return numbers.length === 0 ? undefined : join(this.path, `${name}.${Math.max(...numbers)}`)
  }

  /** Puts new content under a name: all of it or, whatever happens, none. */
  async replace(name: string, content: string): Promise<void> {
    const partial = join(this.path, `${name}.partial.${this.#number}`)
    const file = await open(partial, 'w')
    try {
      await file.writeFile(content)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(partial, this.own(name))
    await syncFolder(this.path)
  }

  /** @throws RankmillError `output_in_use` where another runner has taken over */
  async check(): Promise<void> {
    // The next runner takes the next number, and removes this one when it has begun.
    const isNewest = !(await exists(join(this.path, `lease.${this.#number + 1}`)))
    if (isNewest && (await exists(this.own('lease')))) return
    throw new RankmillError(
      'output_in_use',
      `${this.#output}: another runner took over while this one gave no sign of life; it goes on there`,
    )
  }

  /** Removes what earlier leases left; to be called once this one's own files say as much. */
  async forgetEarlier(): Promise<void> {
    for (const name of await readdir(this.path)) {
      const number = NUMBERED.exec(name)?.[2]
      if (number !== undefined && Number(number) < this.#number) await rm(join(this.path, name), { force: true })
    }
  }

  /** Gives the lease up, so that the next runner need not wait for it. */
  async release(): Promise<void> {
    clearInterval(this.#timer)
    await rm(this.own('lease'), { force: true })
  }

  async #renew(): Promise<void> {
    const now = new Date()
    await utimes(this.own('lease'), now, now)
  }
}

/** 'gone': it ended or gave its lease up; 'expired': it gives no sign, and may only be asleep. */
async function holderOf(lease: string, leaseMs: number): Promise<'gone' | 'alive' | 'expired'> {
  try {
    const [{ mtimeMs }, text] = await Promise.all([stat(lease), readFile(lease, 'utf8')])
    if (isKnownDead(JSON.parse(text) as ProcessIdentity)) return 'gone'
    return Date.now() - mtimeMs > leaseMs ? 'expired' : 'alive'
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return 'gone'
    // Cut off while it was written, by a runner that never came to hold it.
    if (error instanceof SyntaxError) return 'gone'
    throw error
  }
}

async function claimLease(lease: string, output: string): Promise<void> {
  const file = await open(lease, 'wx').catch((error) => {
    throw codeOf(error) === 'EEXIST' ? inUse(output) : error
  })
  try {
    await file.writeFile(JSON.stringify(ownIdentity()))
  } finally {
    await file.close()
  }
}

async function replaceByCopy(output: string): Promise<void> {
  if (!(await exists(output))) return
  const copy = `${output}.copy`
  await copyFile(output, copy, constants.COPYFILE_FICLONE)
  await rename(copy, output)
}

/** Makes a rename last through a power cut. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

function inUse(output: string): RankmillError {
  return new RankmillError('output_in_use', `${output}: another run is writing it`, { param: output })
}

/** What an operation on the output's files threw, as an error that names the file. */
export function unwritable(output: string, error: unknown): RankmillError {
  if (error instanceof RankmillError) return error
  const reason =
    codeOf(error) === 'ENOSPC' ? 'no space is left' : error instanceof Error ? error.message : String(error)
  return new RankmillError('output_unwritable', `${output}: ${reason}`, { param: output }, { cause: error })
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code
}
