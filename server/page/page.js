/** The page at `/`: asks the API that served it, like any other client. Texts are only ever put in as text. */
const at = (id) => document.getElementById(id)
const LIVE_MS = 2000

let language = 'curl'

function headers() {
  const key = at('key').value
  return { 'content-type': 'application/json', ...(key ? { authorization: `Bearer ${key}` } : {}) }
}

async function call(method, path, body) {
  const response = await fetch(path, { method, headers: headers(), ...(body ? { body: JSON.stringify(body) } : {}) })
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

function queueRow({ name, waiting, active, failed }) {
  const row = document.createElement('tr')
  for (const content of [name, waiting, active, failed]) cell(row, String(content))
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
    const { queues, workers } = await call('GET', '/v1/status')
    show('queues', queues.map(queueRow))
    show('workers', workers.map(workerRow))
    at('live-said').textContent = workers.length === 0 ? 'No worker is alive: requests wait until one comes.' : ''
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
