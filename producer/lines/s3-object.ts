/** Objects of S3, and of stores that speak its protocol, under `s3://bucket/key`. The SDK is loaded when one is named. */
import { createReadStream } from 'node:fs'
import type { Readable } from 'node:stream'
import type { S3Client } from '@aws-sdk/client-s3'
import type { StoredBytes } from './stored-bytes.js'

export interface S3Place {
  readonly bucket: string
  readonly key: string
}

const S3_URL = /^s3:\/\/([^/]+)\/(.*)$/s
/** Tries of a read that broke off, without a byte between them. */
const READ_TRIES = 5
const RETRY_MS = 200

export function isS3(path: string): boolean {
  return path.startsWith('s3://')
}

/** @throws Error where it is no `s3://bucket/key` */
export function s3Place(url: string): S3Place {
  const [, bucket, key] = S3_URL.exec(url) ?? []
  if (!bucket || key === undefined) throw new Error('must be s3://BUCKET/KEY')
  return { bucket, key }
}

let connecting: Promise<S3Client> | undefined
/** Of the SDK, for those who choose the version of Node; what it is about says `npm`. */
const NO_WARNING = 'AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'

/**
 * Credentials, region and endpoint as the AWS tools find them: environment, profiles, roles. An endpoint of one's own
 * (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`) has the bucket in the path, as self-hosted stores want it.
 */
export function s3Client(): Promise<S3Client> {
  process.env[NO_WARNING] ??= 'true'
  connecting ??= import('@aws-sdk/client-s3').then(({ S3Client }) => {
    const { AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_DEFAULT_REGION } = process.env
    const hasEndpoint = (AWS_ENDPOINT_URL_S3 ?? AWS_ENDPOINT_URL) !== undefined
    const hasRegion = (AWS_REGION ?? AWS_DEFAULT_REGION) !== undefined
    return new S3Client({
      ...(hasEndpoint ? { forcePathStyle: true } : { followRegionRedirects: true }),
      ...(hasEndpoint && !hasRegion ? { region: 'us-east-1' } : {}),
    })
  })
  return connecting
}

/** Reads see one version of the object: where it is replaced meanwhile, they fail. @throws Error of the store */
export async function s3File(url: string): Promise<StoredBytes> {
  const { HeadObjectCommand } = await import('@aws-sdk/client-s3')
  const { bucket, key } = s3Place(url)
  const client = await s3Client()
  const { ContentLength: size = 0, ETag: etag = '' } = await client
    .send(new HeadObjectCommand({ Bucket: bucket, Key: key }))
    .catch((error) => {
      throw reason(error)
    })
  return {
    name: url,
    size,
    fingerprint: async () => `${size}-${etag.replaceAll('"', '')}`,
    read: (start, end = size) => bytesOf(client, { bucket, key }, etag, start, Math.min(end, size)),
  }
}

/** A connection that breaks is followed by another one, from the next byte on. */
async function* bytesOf(
  client: S3Client,
  { bucket, key }: S3Place,
  etag: string,
  start: number,
  end: number,
): AsyncGenerator<Buffer> {
  const { GetObjectCommand } = await import('@aws-sdk/client-s3')
  let at = start
  for (let tries = 0; at < end; ) {
    try {
      const range = `bytes=${at}-${end - 1}`
      const command = new GetObjectCommand({ Bucket: bucket, Key: key, Range: range, IfMatch: etag })
      const { Body } = await client.send(command)
      for await (const chunk of Body as Readable) {
        at += (chunk as Buffer).length
        tries = 0
        yield chunk as Buffer
      }
      if (at < end) throw new Error(`ended after ${at} of ${end} bytes`)
    } catch (error) {
      const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode
      if (status === 412) throw new Error('was replaced while it was read')
      if ((status !== undefined && status < 500) || ++tries >= READ_TRIES) throw reason(error)
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS * 2 ** tries))
    }
  }
}

/** Objects whose key fits a pattern as a shell has them, or is it, by name. @throws Error of the store */
export async function s3Matches(pattern: string): Promise<string[]> {
  const { paginateListObjectsV2 } = await import('@aws-sdk/client-s3')
  const { Minimatch } = await import('minimatch')
  const { bucket, key } = s3Place(pattern)
  const prefix = key.slice(0, key.search(/[*?[{\\]|$/))
  const fitting = new Minimatch(key, { nocomment: true, nonegate: true })
  const found: string[] = []
  const pages = paginateListObjectsV2({ client: await s3Client() }, { Bucket: bucket, Prefix: prefix })
  for await (const { Contents = [] } of pages) {
    for (const { Key } of Contents)
      if (Key !== undefined && (Key === key || fitting.match(Key))) found.push(`s3://${bucket}/${Key}`)
  }
  return found.sort()
}

/** Whether a bucket is there and answers. @throws Error of the store */
export async function checkBucket(url: string): Promise<void> {
  const { HeadBucketCommand } = await import('@aws-sdk/client-s3')
  const client = await s3Client()
  await client.send(new HeadBucketCommand({ Bucket: s3Place(url).bucket })).catch((error) => {
    throw reason(error)
  })
}

/** The object's tag; undefined where there is none. @throws Error of the store */
export async function s3Tag(url: string): Promise<string | undefined> {
  const { HeadObjectCommand, NotFound } = await import('@aws-sdk/client-s3')
  const { bucket, key } = s3Place(url)
  try {
    return (await (await s3Client()).send(new HeadObjectCommand({ Bucket: bucket, Key: key }))).ETag
  } catch (error) {
    if (error instanceof NotFound) return undefined
    throw reason(error)
  }
}

/** Puts a file there, in parts: the object is there when it is whole. @returns its tag. @throws Error of the store */
export async function uploadS3(path: string, url: string): Promise<string | undefined> {
  const { Upload } = await import('@aws-sdk/lib-storage')
  const { bucket, key } = s3Place(url)
  const params = { Bucket: bucket, Key: key, Body: createReadStream(path) }
  try {
    return (await new Upload({ client: await s3Client(), params }).done()).ETag
  } catch (error) {
    throw reason(error)
  }
}

/** Bodies of refused HEAD requests are empty, and so are their messages. */
function reason(error: unknown): Error {
  const { name, message, $metadata } = error as Error & { $metadata?: { httpStatusCode?: number } }
  const status = $metadata?.httpStatusCode === undefined ? '' : ` (HTTP ${$metadata.httpStatusCode})`
  if (message === 'Region is missing') return new Error('no region is set: AWS_REGION names it', { cause: error })
  const isSaying = message && message !== 'UnknownError' && message !== name
  const said = !isSaying ? name : name === 'Error' ? message : `${name}: ${message}`
  return new Error(`${said}${status}`, { cause: error })
}
