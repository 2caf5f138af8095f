import { describe, expect, it } from 'vitest'
import { parseBatchLine } from '../../../../producer/batch/batch-line.js'

function parse(text: string | Buffer) {
  const bytes = Buffer.from(text)
  return parseBatchLine({ number: 7, bytes, length: bytes.length, end: 100, digest: undefined }, 1 << 20)
}

describe('a line of a batch file', () => {
  const body = { query: 'q', documents: ['a'] }

  it("may be OpenAI's", () => {
    const item = parse(JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/rerank', body }))
    expect(item).toMatchObject({ line: 7, end: 100, customId: 'a', request: body })
  })

  it("may be Voyage's", () => {
    expect(parse(JSON.stringify({ custom_id: 'a', body }))).toMatchObject({ customId: 'a', request: body })
  })

  it.each(['id', 'custom_id'])('may be a bare request, whose %s is its custom id', (name) => {
    const item = parse(JSON.stringify({ [name]: 'a', ...body }))
    expect(item).toMatchObject({ customId: 'a' })
    expect(item?.request).toEqual(body)
  })

  it('that is blank is none', () => {
    expect(parse(' \t')).toBeUndefined()
  })

  it.each([
    ['{"query":', 'invalid_line', /line 7: not JSON/],
    ['[1]', 'invalid_line', /line 7: must be a JSON object/],
    [Buffer.from([0x7b, 0xff, 0x7d]), 'invalid_line', /line 7: not UTF-8/],
    ['{"custom_id":"a"}', 'invalid_request', /custom_id without a body/],
    ['{"custom_id":5,"body":{}}', 'invalid_request', /custom_id: must be a string of 1 to 512 characters, got 5/],
    ['{"custom_id":"a","method":"GET","body":{}}', 'invalid_request', /method: must be "POST", got "GET"/],
    ['{"custom_id":"a","url":"/v1/chat","body":{}}', 'invalid_request', /url: must be one of .*got "\/v1\/chat"/],
    ['{"custom_id":"a","body":"text"}', 'invalid_request', /body: must be an object/],
  ])('%s is an error that says so', (text, code, message) => {
    const item = parse(text)
    expect(item?.error).toMatchObject({ code, message: expect.stringMatching(message) })
  })

  it('longer than the limit is an error that names both', () => {
    const item = parseBatchLine({ number: 3, bytes: undefined, length: 2000, digest: undefined, end: 2001 }, 1000)
    expect(item?.error).toMatchObject({
      code: 'invalid_line',
      message: 'line 3: must have at most 1000 bytes, got 2000',
    })
  })
})
