/** Files in S3 or a store that speaks its protocol: servers on any machines share them. */
import { randomBytes } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3'
import { Upload } from '@aws-sdk/lib-storage'
import { RankmillError } from '../../shared/errors.js'
import { type Storage, storageError } from './storage.js'

/** Parts are held in memory: two of them a file. S3 takes 10,000 parts, so that a file may have 80 GB. */
const PART_BYTES = 8 * 1024 * 1024
const PARTS_AT_ONCE = 2

export class S3Storage implements Storage {
  readonly #client: S3Client
  readonly #bucket: string
  readonly #prefix: string

  /**
   * @param url s3://bucket/prefix
   * @param endpoint of a store other than AWS's; '' for that
   * @throws RankmillError `invalid_configuration`, `storage_failed`
   */
  static async open(url: string, endpoint: string): Promise<S3Storage> {
    const [, bucket, prefix = ''] = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,62})(?:\/(.*))?$/.exec(url) ?? []
    if (bucket === undefined) {
      throw new RankmillError('invalid_configuration', `--files: must be s3://bucket/prefix, got "${url}"`, {
        param: 'files',
      })
    }
    const client = new S3Client({
      // Stores of one's own are addressed by path, and have no regions.
      ...(endpoint === '' ? {} : { endpoint, forcePathStyle: true, region: process.env['AWS_REGION'] ?? 'us-east-1' }),
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
    })
    try {
      await client.send(new HeadBucketCommand({ Bucket: bucket }))
    } catch (error) {
      client.destroy()
      throw storageError(url, error)
    }
    return new S3Storage(client, bucket, prefix === '' || prefix.endsWith('/') ? prefix : `${prefix}/`)
  }

  private constructor(client: S3Client, bucket: string, prefix: string) {
    this.#client = client
    this.#bucket = bucket
    this.#prefix = prefix
  }

  async put(id: string, content: AsyncIterable<Buffer>): Promise<number> {
    let bytes = 0
    let failure: unknown
    const counted = async function* () {
      try {
        for await (const chunk of content) {
          bytes += chunk.length
          yield chunk
        }
      } catch (error) {
        // The uploader wraps what the reader throws; the caller wants to see it.
        failure = error
        throw error
      }
    }
    try {
      const upload = new Upload({
        client: this.#client,
        params: { ...this.#at(id), Body: Readable.from(counted()) },
        partSize: PART_BYTES,
        queueSize: PARTS_AT_ONCE,
      })
      await upload.done()
      return bytes
    } catch (error) {
      throw storageError(id, failure ?? error)
    }
  }

  async get(id: string): Promise<AsyncIterable<Buffer>> {
    try {
      const { Body } = await this.#client.send(new GetObjectCommand(this.#at(id)))
      if (!(Body instanceof Readable)) throw new Error('the store sent no content')
      return Body
    } catch (error) {
      throw storageError(id, error)
    }
  }

  async remove(id: string): Promise<void> {
    await this.#client.send(new DeleteObjectCommand(this.#at(id))).catch((error) => {
      throw storageError(id, error)
    })
  }

  async local(id: string, folder: string): Promise<string> {
    const path = join(folder, id)
    try {
      const { ContentLength } = await this.#client.send(new HeadObjectCommand(this.#at(id)))
      const there = await stat(path).catch(() => undefined)
      if (there?.size === ContentLength) return path
      await mkdir(folder, { recursive: true, mode: 0o700 })
      const partial = `${path}.${randomBytes(4).toString('hex')}.partial`
      try {
        await pipeline(await this.get(id), createWriteStream(partial, { flags: 'wx', mode: 0o600 }))
        await rename(partial, path)
      } finally {
        await rm(partial, { force: true })
      }
      return path
    } catch (error) {
      throw storageError(id, error)
    }
  }

  close(): void {
    this.#client.destroy()
  }

  #at(id: string): { Bucket: string; Key: string } {
    return { Bucket: this.#bucket, Key: `${this.#prefix}${id}` }
  }
}
