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
  await page.goto(`${url}/queues`)
  await page.getByText('rerank-bulk').first().waitFor()
  await page.close()
})
