/**
 * The folder beside an output file: who writes to it, and how far it is. One runner at a time holds the claim. Each claim
 * has a number, higher than all before, and whatever a runner writes here carries that number: a runner that slept through
 * its lease finds a higher one and stops, and what it may have written until then is in files that nobody reads any more.
 */
import { randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import {
  access,
  type FileHandle,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  rmdir,
  stat,
  writeFile,
} from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { RankmillError } from '../../shared/errors.js'
import { isKnownDead, ownIdentity, type ProcessIdentity } from '../../shared/process-identity.js'
import { codeOf, unwritable } from './unwritable.js'

const NUMBERED = /^(.+)\.(\d+)$/

/** The newest file of each name. */
export interface RunFiles {
  newest(name: string): Promise<string | undefined>
}

export class RunFolder implements RunFiles {
  readonly path: string
  /** The holder before gives no sign, and may only be asleep, with the output open. */
  readonly tookOver: boolean
  readonly #output: string
  readonly #number: number
  readonly #lease: FileHandle
  readonly #leaseId: string
  readonly #timer: NodeJS.Timeout

  /** What runs left beside an output, for a look that claims and changes nothing. */
  static peek(output: string): RunFiles {
    const path = runFolderOf(output)
    return { newest: (name) => newestOf(path, name, Number.POSITIVE_INFINITY) }
  }

  /**
   * Claims an output. Given back with `release` before anything was written here, a claim leaves no trace.
   *
   * @param leaseMs a holder that gave no sign for so long has lost its claim
   * @throws RankmillError `output_in_use`, `output_unwritable`
   */
  static async claim(output: string, leaseMs: number): Promise<RunFolder> {
    try {
      const path = runFolderOf(output)
      await access(dirname(output), constants.W_OK)
      // Not `recursive`, which tries for ever where a file system takes no folders, as /proc.
      await mkdir(path).catch((error) => {
        if (codeOf(error) !== 'EEXIST') throw error
      })
      const last = Math.max(0, ...(await numbersIn(path)))
      const holder = await holderOf(join(path, `lease.${last}`), leaseMs)
      if (holder === 'alive') throw inUse(output)
      const lease = await createLease(join(path, `lease.${last + 1}`), output)
      const { dev, ino } = await lease.stat({ bigint: true })
      return new RunFolder(path, output, last + 1, { lease, id: `${dev}:${ino}` }, holder === 'expired', leaseMs)
    } catch (error) {
      throw unwritable(output, error)
    }
  }

  private constructor(
    path: string,
    output: string,
    number: number,
    { lease, id }: { lease: FileHandle; id: string },
    tookOver: boolean,
    leaseMs: number,
  ) {
    this.path = path
    this.tookOver = tookOver
    this.#output = output
    this.#number = number
    this.#lease = lease
    this.#leaseId = id
    this.#timer = setInterval(() => void this.#renew().catch(() => undefined), leaseMs / 4).unref()
  }

  get number(): number {
    return this.#number
  }

  /** Path of this claim's own file under a name. */
  own(name: string): string {
    return join(this.path, `${name}.${this.#number}`)
  }

  /** Path of the newest file under a name, of this claim or an earlier one; undefined where there is none. */
  newest(name: string): Promise<string | undefined> {
    return newestOf(this.path, name, this.#number)
  }

  /** Puts new content under a name: all of it or, whatever happens, none. @throws RankmillError `output_unwritable` */
  async replace(name: string, content: string): Promise<void> {
    const partial = join(this.path, `${name}.partial.${this.#number}`)
    try {
      const file = await open(partial, 'w')
      try {
        await file.writeFile(content)
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(partial, this.own(name))
      await syncFolder(this.path)
    } catch (error) {
      await rm(partial, { force: true }).catch(() => undefined)
      throw unwritable(this.#output, error)
    }
  }

  /** @throws RankmillError `output_in_use` where another runner has taken over */
  async check(): Promise<void> {
    const newest = async () => Math.max(0, ...(await numbersIn(this.path)))
    if ((await newest()) === this.#number && (await this.#isOwn())) return
    // Looked at again: this may have slept between the two.
    const why =
      (await newest()) > this.#number
        ? 'another runner took over while this one gave no sign of life; it goes on there'
        : `${this.path}, which says who writes it, was removed while this runner wrote`
    throw new RankmillError('output_in_use', `${this.#output}: ${why}`, { param: 'output' })
  }

  /** Removes what earlier claims left, all of it or of one name; to be called once this one's own files say as much. */
  async forgetEarlier(only?: string): Promise<void> {
    for (const file of await readdir(this.path)) {
      const [, name, number] = NUMBERED.exec(file) ?? []
      if (number === undefined || Number(number) >= this.#number) continue
      if (only === undefined || name === only) await rm(join(this.path, file), { force: true })
    }
  }

  /** Gives the claim up, so that the next runner need not wait for it. */
  async release(): Promise<void> {
    clearInterval(this.#timer)
    if (await this.#isOwn()) await rm(this.own('lease'), { force: true })
    await this.#lease.close().catch(() => undefined)
    // Refused before anything was written: as it was.
    await rmdir(this.path).catch(() => undefined)
  }

  /** By device and inode, which nobody else can have while the lease is open. */
  async #isOwn(): Promise<boolean> {
    return stat(this.own('lease'), { bigint: true }).then(
      ({ dev, ino }) => `${dev}:${ino}` === this.#leaseId,
      () => false,
    )
  }

  /** By writing what is there: the file system dates it, by a clock that all runners have in common. */
  async #renew(): Promise<void> {
    await this.#lease.write(JSON.stringify(ownIdentity()), 0)
  }
}

export const runFolderOf = (output: string): string => `${output}.rankmill`

async function numbersIn(path: string): Promise<number[]> {
  return (await namesIn(path)).flatMap((name) => Number(NUMBERED.exec(name)?.[2] ?? []))
}

async function newestOf(path: string, name: string, most: number): Promise<string | undefined> {
  const numbers = (await namesIn(path)).flatMap((file) => {
    const [, found, number] = NUMBERED.exec(file) ?? []
    return found === name && Number(number) <= most ? Number(number) : []
  })
  return numbers.length === 0 ? undefined : join(path, `${name}.${Math.max(...numbers)}`)
}

async function namesIn(path: string): Promise<string[]> {
  return readdir(path).catch((error) => {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return []
    throw error
  })
}

/** 'gone': it ended or gave its claim up; 'expired': it gives no sign, and may only be asleep. */
async function holderOf(lease: string, leaseMs: number): Promise<'gone' | 'alive' | 'expired'> {
  try {
    const [{ mtimeMs }, text] = await Promise.all([stat(lease), readFile(lease, 'utf8')])
    const hasExpired = (await timeAt(dirname(lease))) - mtimeMs > leaseMs
    // Just being written; or cut off while it was, by a runner that never came to hold it.
    if (text === '') return hasExpired ? 'gone' : 'alive'
    if (isKnownDead(JSON.parse(text) as ProcessIdentity)) return 'gone'
    return hasExpired ? 'expired' : 'alive'
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return 'gone'
    if (error instanceof SyntaxError) return 'gone'
    throw error
  }
}

/** The time in a folder, in ms since 1970: that of its file system, which dated the lease, whatever this machine's clock says. */
async function timeAt(folder: string): Promise<number> {
  const probe = join(folder, `.time-${randomUUID()}`)
  try {
    await writeFile(probe, '')
    return (await stat(probe)).mtimeMs
  } finally {
    await rm(probe, { force: true })
  }
}

/** Left open: as long as it is, no other file can have its inode. */
async function createLease(path: string, output: string): Promise<FileHandle> {
  const file = await open(path, 'wx').catch((error) => {
    throw codeOf(error) === 'EEXIST' ? inUse(output) : error
  })
  try {
    await file.writeFile(JSON.stringify(ownIdentity()))
    return file
  } catch (error) {
    await file.close()
    await rm(path, { force: true })
    throw error
  }
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

export function inUse(output: string): RankmillError {
  return new RankmillError('output_in_use', `${output}: another run is writing it`, { param: 'output' })
}
