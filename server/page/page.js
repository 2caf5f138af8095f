/** The page at `/`: asks the API that served it, like any other client. Texts are only ever put in as text. */
const at = (id) => document.getElementById(id)
const LIVE_MS = 2000
/** Looks that the graphs show: three minutes. */
const SHOWN = 90
const SVG = 'http://www.w3.org/2000/svg'
/** Oldest first. */
const seen = []

let language = 'curl'

function headers() {
  const key = at('key').value
  return { 'content-type': 'application/json', ...(key ? { authorization: `Bearer ${key}` } : {}) }
}

async function call(method, path, body) {
  const { 'content-type': type, ...rest } = headers()
  const sent = body ? { headers: { 'content-type': type, ...rest }, body: JSON.stringify(body) } : { headers: rest }
  const response = await fetch(path, { method, ...sent })
  if (response.status === 401) at('key-field').hidden = false
  const answer = await response.json()
  if (!response.ok) throw new Error(answer.error?.message ?? `status ${response.status}`)
  return answer
}

function linesOf(id) {
  return at(id).value.split('\n').map((line) => line.trim()).filter((line) => line !== '')
}

function requestBody() {
  const isNamed = document.querySelector('[name=source]:checked').value === 'corpus'
  const top = Number(at('top').value)
  return {
    ...(at('model').value ? { model: at('model').value } : {}),
    query: at('query').value,
    documents: isNamed ? { corpus: at('corpus').value, ids: linesOf('ids') } : linesOf('documents'),
    ...(top > 0 ? { top_n: top } : {}),
    ...(isNamed ? { return_documents: true } : {}),
  }
}

function cell(row, content, className = '') {
  const td = row.insertCell()
  td.className = className
  if (content instanceof Node) td.append(content)
  else td.textContent = content
  return td
}

function show(rows, made) {
  at(rows).replaceChildren(...made)
}

function rankingRow({ index, id, relevance_score: score, document: found }, place, body) {
  const row = document.createElement('tr')
  const moved = index - place
  cell(row, String(place + 1), 'number')
  cell(row, moved === 0 ? 'same' : moved > 0 ? `up ${moved}` : `down ${-moved}`, moved > 0 ? 'up' : moved < 0 ? 'down' : '')
  const meter = document.createElement('meter')
  meter.value = score
  meter.setAttribute('aria-label', 'score')
  const shown = cell(row, meter, 'number')
  shown.append(` ${score.toFixed(4)}`)
  const text = Array.isArray(body.documents) ? body.documents[index] : (found?.text ?? '')
  cell(row, id ? `${id}: ${text}` : text, 'document')
  return row
}

async function rerank(event) {
  event.preventDefault()
  const body = requestBody()
  at('said').textContent = 'Ranking…'
  const began = performance.now()
  try {
    const { results, model, usage } = await call('POST', '/v1/rerank', body)
    show('rows', results.map((row, place) => rankingRow(row, place, body)))
    at('ranking').hidden = false
    const ms = Math.round(performance.now() - began)
    at('said').textContent = `${results.length} of ${usage.pairs} documents by ${model} in ${ms} ms (${usage.cached} scores were known)`
  } catch (error) {
    at('said').textContent = `Refused: ${error.message}`
  }
}

function snippet() {
  const body = requestBody()
  const json = JSON.stringify(body, null, 2)
  const { origin } = location
  if (language === 'curl') {
    const quoted = json.replaceAll("'", "'\\''")
    return `curl ${origin}/v1/rerank \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`
  }
  if (language === 'python') {
    if (!Array.isArray(body.documents)) {
      const python = json.replaceAll('true', 'True')
      return `import requests\n\nanswer = requests.post("${origin}/v1/rerank", json=${python})\nprint(answer.json())`
    }
    const documents = JSON.stringify(body.documents, null, 4)
    return `import cohere\n\nclient = cohere.ClientV2(api_key="none", base_url="${origin}")\nanswer = client.rerank(\n    model=${JSON.stringify(body.model ?? '')},\n    query=${JSON.stringify(body.query)},\n    documents=${documents},\n${body.top_n ? `    top_n=${body.top_n},\n` : ''})\nfor row in answer.results:\n    print(row.index, row.relevance_score)`
  }
  return `const response = await fetch('${origin}/v1/rerank', {\n  method: 'POST',\n  headers: { 'content-type': 'application/json' },\n  body: JSON.stringify(${json}),\n})\nconst { results } = await response.json()`
}

function showSnippet() {
  at('snippet').textContent = snippet()
}

function option(value) {
  const made = document.createElement('option')
  made.value = value
  made.textContent = value
  return made
}

function seconds(value) {
  if (value === null) return 'nobody drains it'
  return value < 60 ? `${Math.ceil(value)} s` : value < 3600 ? `${Math.ceil(value / 60)} min` : `${Math.ceil(value / 3600)} h`
}

function queueRow({ model, lane, waiting, active, failed, seconds_to_drain: drain }) {
  const row = document.createElement('tr')
  for (const content of [model || "the fleet's own", lane]) cell(row, content)
  for (const content of [waiting, active, failed]) cell(row, String(content), 'number')
  cell(row, waiting + active === 0 ? '' : seconds(drain), 'number')
  return row
}

/** Lines over one scale from nothing up; where nothing is known a line has a gap. */
function graph(id, lines) {
  const most = Math.max(1e-9, ...lines.flat().filter((value) => value !== null))
  const made = lines.map((values, i) => {
    let path = ''
    let isBroken = true
    values.forEach((value, x) => {
      if (value !== null) path += `${isBroken ? 'M' : 'L'}${((SHOWN - values.length + x) / (SHOWN - 1)) * 300} ${58 - (value / most) * 56}`
      isBroken = value === null
    })
    const line = document.createElementNS(SVG, 'path')
    line.setAttribute('d', path)
    line.setAttribute('class', i === 0 ? 'first' : 'second')
    return line
  })
  at(id).replaceChildren(...made)
}

function showPace({ answers, workers }) {
  seen.push({ ...answers, jobs: workers.reduce((sum, worker) => sum + worker.jobs_per_second, 0) })
  if (seen.length > SHOWN) seen.shift()
  const now = seen.at(-1)
  graph('pace', [seen.map((look) => look.per_second), seen.map((look) => look.jobs)])
  graph('latency', [seen.map((look) => look.p50_ms), seen.map((look) => look.p95_ms)])
  at('pace-now').textContent = `${now.per_second.toFixed(1)} answers, ${now.jobs.toFixed(1)} jobs a second`
  at('latency-now').textContent = now.p50_ms === null ? 'no answer in the last minute' : `${now.p50_ms.toFixed(0)} ms, ${now.p95_ms.toFixed(0)} ms`
}

function failedRow({ id, part, failed_at: failedAt, error }) {
  const row = document.createElement('tr')
  cell(row, id, 'document')
  cell(row, part, 'number')
  cell(row, new Date(failedAt).toLocaleString(), 'number')
  cell(row, error.slice(0, 300), 'document')
  const retry = document.createElement('button')
  retry.type = 'button'
  retry.textContent = 'Try again'
  retry.setAttribute('aria-label', `Try again: ${id}`)
  retry.addEventListener('click', async () => {
    try {
      const { jobs } = await call('POST', `/v1/failed/${encodeURIComponent(id)}/retry`)
      at('failed-said').textContent = `${id}: ${jobs} job(s) back in the queue`
      // The button is gone with its row: whoever works by keyboard is not left nowhere.
      retry.blur()
    } catch (problem) {
      at('failed-said').textContent = `Refused: ${problem.message}`
    }
    await live()
  })
  cell(row, retry)
  return row
}

function workerRow({ id, models, jobs_per_second: pace }) {
  const row = document.createElement('tr')
  for (const content of [id, models.join(', '), pace.toFixed(1)]) cell(row, content)
  return row
}

function batchRow({ id, status, request_counts: counts }) {
  const row = document.createElement('tr')
  cell(row, id.slice(0, 14))
  cell(row, status)
  const progress = document.createElement('progress')
  progress.max = Math.max(1, counts.total)
  progress.value = counts.completed + counts.failed
  progress.setAttribute('aria-label', `progress of ${id}`)
  cell(row, progress, 'number').append(` ${counts.completed + counts.failed} of ${counts.total}`)
  cell(row, String(counts.failed), 'number')
  if (!['validating', 'in_progress'].includes(status)) {
    cell(row, '')
    return row
  }
  const cancel = document.createElement('button')
  cancel.type = 'button'
  cancel.textContent = 'Cancel'
  cancel.setAttribute('aria-label', `Cancel ${id}`)
  cancel.addEventListener('click', () => void call('POST', `/v1/batches/${id}/cancel`).then(live, live))
  cell(row, cancel)
  return row
}

/** A row is not replaced while somebody's focus is in it. */
function isBusy(id) {
  return at(id).contains(document.activeElement)
}

async function live() {
  if (document.hidden) return
  try {
    const status = await call('GET', '/v1/status')
    const { queues, workers, shards_away: away } = status
    showPace(status)
    const dead = queues.reduce((sum, { failed }) => sum + failed, 0)
    at('failed-part').hidden = dead === 0 && at('failed-said').textContent === ''
    if (!at('failed-part').hidden && !isBusy('failed-rows')) show('failed-rows', (await call('GET', '/v1/failed?limit=20')).data.map(failedRow))
    show('queues', queues.map(queueRow))
    show('workers', workers.map(workerRow))
    const missing = away.map(({ shard, error }) => `Shard ${shard} does not answer, and is in no number here: ${error.message}`)
    const idle = workers.length === 0 ? ['No worker is alive: requests wait until one comes.'] : []
    at('live-said').textContent = [...missing, ...idle].join(' ')
    at('state').textContent = `${workers.length} worker(s)`
  } catch (error) {
    at('live-said').textContent = error.message
  }
  try {
    const { data } = await call('GET', '/v1/batches?limit=10')
    if (!isBusy('batch-rows')) show('batch-rows', data.map(batchRow))
  } catch {
    // What is missing is said above.
  }
}

async function choices() {
  const [models, corpora] = await Promise.all([call('GET', '/v1/models'), call('GET', '/v1/corpora')])
  show('model', models.data.map(({ id }) => option(id)))
  show('corpus', corpora.data.map(({ name }) => option(name)))
  showSnippet()
}

at('form').addEventListener('submit', rerank)
at('form').addEventListener('input', showSnippet)
at('form').addEventListener('change', () => {
  const isNamed = document.querySelector('[name=source]:checked').value === 'corpus'
  at('named').hidden = !isNamed
  at('lines').hidden = isNamed
  showSnippet()
})
at('key').addEventListener('change', () => void choices().then(live, live))
for (const button of document.querySelectorAll('[data-language]')) {
  button.addEventListener('click', () => {
    language = button.dataset.language
    for (const each of document.querySelectorAll('[data-language]')) each.setAttribute('aria-pressed', String(each === button))
    showSnippet()
  })
}
at('copy').addEventListener('click', async () => {
  await navigator.clipboard.writeText(at('snippet').textContent)
  at('copy').textContent = 'Copied'
  setTimeout(() => {
    at('copy').textContent = 'Copy'
  }, LIVE_MS)
})
showSnippet()
void choices().catch(() => undefined)
void live()
setInterval(live, LIVE_MS)
