/** What `rankmill models add` would say of a folder or an id, without writing anything. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { RankmillError } from '../../../shared/errors.js'
import { checkModel, type Finding, type ModelCheck } from '../model-check.js'
import * as files from '../model-folder.js'
import {
  fetchFiles,
  findSource,
  graphFiles,
  headOfSource,
  labelIndex,
  type Source,
  sideFiles,
  weightFiles,
} from './source-folder.js'

export interface SourceCheck extends ModelCheck {
  /** `loads` as it is; `add` has to bring or export it. */
  readonly next: 'loads' | 'add'
}

/**
 * @param label as `models add --label` has it
 * @throws RankmillError `unknown_model`, `hub_denied`, `hub_unavailable`, `invalid_request` (a label that is not there)
 */
export async function checkSource(
  reference: string,
  { label, revision, signal }: { label: string | undefined; revision: string; signal: AbortSignal },
): Promise<SourceCheck> {
  const own = { signal, say: () => undefined }
  const temporary = await mkdtemp(join(tmpdir(), 'rankmill-check-'))
  try {
    const source = await findSource(reference, { ...own, revision, name: undefined, cacheDir: temporary })
    const { folder, names, snapshot } = source
    await fetchFiles(source, sideFiles(names), own)
    if (!snapshot && names.some((name) => name.endsWith('.onnx'))) {
      const config = label === undefined ? undefined : await files.readConfig(folder)
      const index = config && label !== undefined ? labelIndex(label, files.labelsOf(config) ?? []) : undefined
      return { ...(await checkModel(folder, { label: index })), next: index === undefined ? 'loads' : 'add' }
    }
    const { findings } = await checkModel(folder, { graphs: false })
    const all = [...findings, await headFinding(source, label)]
    return { folder: reference, findings: all, ok: all.every(({ ok }) => ok), next: 'add' }
  } finally {
    await rm(temporary, { recursive: true, force: true })
  }
}

async function headFinding({ folder, names, snapshot }: Source, label: string | undefined): Promise<Finding> {
  const what = 'graph or weights'
  try {
    const { architecture, labels, label: index } = await headOfSource(folder, names, label)
    const graph = graphFiles(names)
    const wanted = graph[0]?.endsWith('.onnx') ? graph : weightFiles(names)
    const bytes = wanted.reduce(
      (sum, name) => sum + (snapshot?.files.find((file) => file.name === name)?.bytes ?? 0),
      0,
    )
    const size = bytes > 0 ? `, ${(bytes / 1e6).toFixed(1)} MB` : ''
    const kind = wanted === graph ? 'a graph' : 'weights, to be exported'
    const counted = index === undefined ? '' : `, of which ${labels[index]} counts`
    const detail = `${kind} (${wanted.join(', ')}${size}): ${architecture}, ${labels.length} label(s)${counted}`
    return { ok: true, what, detail, fix: '' }
  } catch (error) {
    const { code, message } = RankmillError.from(error)
    if (code === 'invalid_request') throw error
    return {
      ok: false,
      what,
      detail: message,
      fix: 'Take a cross-encoder (…ForSequenceClassification) with safetensors or ONNX.',
    }
  }
}
