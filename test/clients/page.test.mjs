/** The page in a real Chromium: by keyboard, dark and light, on a phone; axe-core finds nothing; nothing is refused by the policy. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { after, before, test } from 'node:test'
import { chromium } from 'playwright-core'

const url = process.env.RANKMILL_TEST_SERVER
const executablePath = process.env.CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/google-chrome'].find(existsSync)
const options = executablePath ? {} : { skip: 'no Chromium is installed: set CHROMIUM' }
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const pictures = process.env.RANKMILL_TEST_PICTURES

let browser

before(async () => {
  if (executablePath) browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] })
})
after(() => browser?.close())

async function open(settings = {}) {
  const page = await browser.newPage(settings)
  const said = []
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && said.push(message.text()))
  page.on('pageerror', (error) => said.push(String(error)))
  await page.goto(url)
  await page.waitForFunction(() => document.querySelectorAll('#model option').length > 0)
  return { page, said }
}

async function rerank(page) {
  await page.getByRole('button', { name: 'Rerank' }).click()
  await page.waitForSelector('#rows tr')
  return page.locator('#rows tr').allInnerTexts()
}

async function violations(page) {
  // The policy of the page allows no scripts but its own: the check comes from outside it.
  return page.evaluate(
    `${axe}; axe.run().then(({ violations }) => violations.map(({ id, nodes }) => id + ': ' + nodes.map((n) => n.target).join()))`,
  )
}

async function picture(page, name) {
  if (!pictures) return
  mkdirSync(pictures, { recursive: true })
  // Graphs with something in them.
  for (let look = 0; look < 15; look++) {
    await rerank(page)
    await page.waitForTimeout(400 + 300 * (look % 5))
  }
  await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: true })
}

for (const [name, settings] of [
  ['light', { colorScheme: 'light', viewport: { width: 1200, height: 800 } }],
  ['dark', { colorScheme: 'dark', viewport: { width: 1200, height: 800 } }],
  ['phone', { colorScheme: 'light', viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true }],
]) {
  test(`ranks, and axe finds nothing: ${name}`, options, async () => {
    const { page, said } = await open(settings)
    const rows = await rerank(page)
    assert.equal(rows.length, 4)
    assert.match(rows[0], /Washington/)
    assert.match(rows[0], /up 2/)
    assert.deepEqual(await violations(page), [])
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth)
    assert.ok(overflow <= 0, `wider than the screen by ${overflow}`)
    await picture(page, name)
    assert.deepEqual(said, [])
    await page.close()
  })
}

test('shows how much and how fast, and the queues by their models', options, async () => {
  const { page, said } = await open()
  await rerank(page)
  await page.waitForFunction(() => /^\d+ ms, \d+ ms$/.test(document.getElementById('latency-now').textContent))
  await page.waitForFunction(() => document.querySelectorAll('#pace path').length === 2)
  assert.match(await page.locator('#pace path').first().getAttribute('d'), /^M[\d.]+ [\d.]+/)
  const queues = await page.locator('#queues tr').allInnerTexts()
  assert.ok(queues.some((row) => row.includes(process.env.RANKMILL_TEST_MODEL)))
  assert.ok(queues.every((row) => !row.includes('%40') && !/\bNaN\b/.test(row)))
  assert.deepEqual(said, [])
  await page.close()
})

test('tries a dead job again, by keyboard, and says what became of it', options, async () => {
  const { page } = await open()
  // Nothing here kills jobs: what the server would say of one is put in its place.
  const dead = {
    object: 'failed_job',
    id: 'r/1',
    part: '1/1',
    failed_at: new Date(0).toISOString(),
    attempts: 3,
    documents: 1,
    error: 'worker_lost: <b>gone</b>',
  }
  const asked = []
  await page.route('**/v1/failed**', (route) => {
    asked.push(`${route.request().method()} ${new URL(route.request().url()).pathname}`)
    const isRetry = route.request().method() === 'POST'
    return route.fulfill({
      status: isRetry ? 202 : 200,
      json: isRetry ? { id: 'r/1', jobs: 1 } : { object: 'list', data: [dead], total: 1 },
    })
  })
  await page.route('**/v1/status', async (route) => {
    const response = await route.fetch()
    const status = await response.json()
    if (!asked.includes('POST /v1/failed/r%2F1/retry')) status.queues[0].failed = 1
    return route.fulfill({ response, json: status })
  })
  const button = page.getByRole('button', { name: 'Try again: r/1' })
  await button.waitFor()
  assert.match(await page.locator('#failed-rows').textContent(), /<b>gone<\/b>/)
  assert.deepEqual(await violations(page), [])
  await button.focus()
  await page.keyboard.press('Enter')
  await page.waitForFunction(() => document.getElementById('failed-said').textContent.includes('1 job(s) back'))
  assert.ok(asked.includes('POST /v1/failed/r%2F1/retry'))
  await page.unrouteAll({ behavior: 'ignoreErrors' })
  await page.close()
})

test('works by keyboard alone', options, async () => {
  const { page } = await open()
  await page.keyboard.press('Tab')
  await page.keyboard.press('Enter')
  await page.locator('#query').focus()
  await page.keyboard.press('Enter')
  await page.waitForSelector('#rows tr')
  await page.close()
})

test('shows texts as texts, and what was refused', options, async () => {
  const { page } = await open()
  await page.locator('#documents').fill('<img src=x onerror="document.title=1">\nthe capital')
  const rows = await rerank(page)
  assert.ok(rows.some((row) => row.includes('<img src=x')))
  assert.equal(await page.title(), 'Rankmill')
  await page.locator('#documents').fill('')
  await page.getByRole('button', { name: 'Rerank' }).click()
  await page.waitForFunction(() => document.getElementById('said').textContent.startsWith('Refused'))
  await page.close()
})

test('gives the request as code that runs', options, async () => {
  const { page } = await open()
  const curl = await page.locator('#snippet').textContent()
  assert.match(curl, /^curl http/)
  await page.getByRole('button', { name: 'Python' }).click()
  assert.match(await page.locator('#snippet').textContent(), /ClientV2\(api_key="none", base_url="http/)
  await page.getByRole('button', { name: 'TypeScript' }).click()
  const code = await page.locator('#snippet').textContent()
  const results = await new Function(`return (async () => { ${code}; return results })()`)()
  assert.equal(results.length, 4)
  await page.close()
})

test('the documentation page works under its policy', options, async () => {
  const page = await browser.newPage()
  const said = []
  page.on('console', (message) => message.type() === 'error' && said.push(message.text()))
  await page.goto(`${url}/docs`)
  await page.waitForSelector('.opblock')
  assert.deepEqual(said, [])
  await page.close()
})

test('the queue board works under its policy', options, async () => {
  const page = await browser.newPage()
  const said = []
  page.on('console', (message) => message.type() === 'error' && said.push(message.text()))
  await page.goto(`${url}/queues`)
  await page.getByText('rerank-bulk').first().waitFor()
  assert.deepEqual(said, [])
  await page.close()
})

test('no page asks another host for anything', options, async () => {
  for (const [path, ready] of [
    ['/', '#model option'],
    ['/docs', '.opblock'],
    ['/queues', 'text=rerank-bulk'],
  ]) {
    const page = await browser.newPage()
    const foreign = []
    page.on('request', (request) => {
      const asked = new URL(request.url())
      if (asked.protocol !== 'data:' && asked.origin !== new URL(url).origin) foreign.push(asked.href)
    })
    await page.goto(`${url}${path}`)
    await page.locator(ready).first().waitFor({ state: 'attached' })
    await page.waitForLoadState('networkidle')
    assert.deepEqual(foreign, [], path)
    await page.close()
  }
})
