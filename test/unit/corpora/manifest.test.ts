/** Layers of a corpus under random changes, pins and interruptions, against plain copies of every version. */
import fc from 'fast-check'
import { expect, it } from 'vitest'
import {
  isPresent,
  layersOf,
  type Manifest,
  nextSettlement,
  parseManifest,
  withLayer,
  withPin,
} from '../../../shared/corpus/manifest.js'

/** Redis as far as corpora need it: each method is one step that happens whole. */
class Store {
  manifest: Manifest = parseManifest(null)
  readonly layers = new Map<string, Map<string, string>>()

  /** @returns whether there was something to do */
  settleOnce(now: number, moves: number): boolean {
    const due = nextSettlement(this.manifest, now)
    if (due?.kind === 'merge') {
      const upper = this.layers.get(due.upper.id) ?? new Map()
      const lower = this.layers.get(due.lower.id) ?? new Map()
      this.layers.set(due.lower.id, lower)
      for (const [id, text] of [...upper].slice(0, moves)) {
        if (text === '' && !due.keepDeletions) lower.delete(id)
        else lower.set(id, text)
        upper.delete(id)
      }
      if (upper.size > 0) return true
      this.layers.delete(due.upper.id)
    } else if (due) {
      for (const id of due.dropped) this.layers.delete(id)
    }
    if (due) this.manifest = due.manifest
    return due !== undefined
  }

  read(version: number): Map<string, string> | undefined {
    const layers = layersOf(this.manifest, version)
    if (!layers) return undefined
    const texts = new Map<string, string>()
    for (const { id } of [...layers].reverse()) for (const entry of this.layers.get(id) ?? []) texts.set(...entry)
    return new Map([...texts].filter(([, text]) => text !== ''))
  }
}

const changes = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('put' as const), ids: fc.array(fc.nat(8), { minLength: 1 }) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('delete' as const), ids: fc.array(fc.nat(8), { minLength: 1 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('replace' as const), ids: fc.array(fc.nat(8), { minLength: 1 }) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('remove' as const) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('pin' as const), holder: fc.nat(3), lasts: fc.nat(20) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('release' as const), holder: fc.nat(3) }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('settle' as const), moves: fc.integer({ min: 1, max: 4 }) }) },
)

it('every kept version reads as it was written, at any point of any merge', () => {
  fc.assert(
    fc.property(fc.array(changes, { maxLength: 40 }), (sequence) => {
      const store = new Store()
      const written = new Map<number, Map<string, string>>()
      let now = 0
      for (const change of sequence) {
        now++
        const { manifest } = store
        const current = isPresent(manifest) ? written.get(manifest.version) : undefined
        const publish = (texts: Map<string, string>, full: boolean, removed = false) => {
          const id = `layer${now}`
          if (!removed) store.layers.set(id, texts)
          const flags = { ...(full ? { full } : {}), ...(removed ? { removed } : {}) }
          store.manifest = withLayer(manifest, { id, dictionaries: [], ...flags }, now)
          const merged = new Map([...(full ? [] : (current ?? [])), ...texts])
          const whole = new Map([...merged].filter(([, text]) => text !== ''))
          if (!removed) written.set(store.manifest.version, whole)
        }
        if (change.kind === 'put' || change.kind === 'replace') {
          const texts = new Map(change.ids.map((id) => [`p${id}`, `${id} at ${now}`]))
          publish(texts, change.kind === 'replace' || current === undefined)
        } else if (change.kind === 'delete' && current) {
          publish(new Map(change.ids.map((id) => [`p${id}`, ''])), false)
        } else if (change.kind === 'remove' && current) {
          publish(new Map(), true, true)
        } else if (change.kind === 'pin' && current) {
          const pin = { version: manifest.version, expiresAt: now + change.lasts }
          store.manifest = withPin(manifest, `h${change.holder}`, pin, now)
        } else if (change.kind === 'release') {
          store.manifest = withPin(manifest, `h${change.holder}`, undefined, now)
        } else if (change.kind === 'settle') {
          store.settleOnce(now, change.moves)
        }
        const present = isPresent(store.manifest)
        const pinned = Object.values(store.manifest.pins).filter(({ expiresAt }) => expiresAt > now)
        const kept = [...pinned.map(({ version }) => version), ...(present ? [store.manifest.version] : [])]
        for (const version of kept) expect(store.read(version)).toEqual(written.get(version))
        // What is not kept reads as it was, or not at all.
        for (const [version, texts] of written) expect([undefined, texts]).toContainEqual(store.read(version))
      }
      while (store.settleOnce(now, 3));
      const live = Object.values(store.manifest.pins).filter(({ expiresAt }) => expiresAt > now)
      const needed = new Set([...live.map(({ version }) => version), store.manifest.version])
      expect(store.manifest.layers.length).toBeLessThanOrEqual(needed.size)
      expect(Object.keys(store.manifest.pins)).toHaveLength(live.length)
      const named = new Set(store.manifest.layers.map(({ id }) => id))
      expect([...store.layers.keys()].filter((id) => !named.has(id))).toEqual([])
    }),
    { numRuns: 500 },
  )
})
