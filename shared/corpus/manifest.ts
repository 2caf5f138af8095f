/**
 * Which layers make up each kept version of a corpus: plain data and pure functions, stored as one string that only
 * ever changes as a whole.
 *
 *     version 9 (current)   layer c  since 9   what the put of version 9 wrote
 *     version 7 (pinned)    layer b  since 7   what those of 6 and 7 wrote, merged
 *                           layer a  since 5   the rest
 *
 * A version is made of the layers up to the one with its number in `since`, the uppermost one that has an id counting.
 * A put writes a layer of its own, which nobody sees until the manifest names it. Two neighbours are merged, the upper
 * one into the lower, when nobody has pinned the lower one's version: first the lower one gets the upper one's `since`,
 * from which moment the lower version is not there any more, then passages are moved, then the upper one is dropped.
 */

export interface Layer {
  readonly id: string
  /** The version that this layer completes. */
  readonly since: number
  /** What lies below does not count. */
  readonly full?: true
  /** The corpus was removed. */
  readonly removed?: true
  /** Ids of the dictionaries that its passages may need. */
  readonly dictionaries: readonly number[]
}

export interface Pin {
  readonly version: number
  /** Milliseconds since 1970, by Redis's clock. */
  readonly expiresAt: number
}

export interface Manifest {
  /** Of the last change; never used again, not even after the corpus was removed. */
  readonly version: number
  /** Lowest first. */
  readonly layers: readonly Layer[]
  readonly pins: Readonly<Record<string, Pin>>
  /** What there may be embeddings of beside the layers: the hash of what they depend on -> the model's name. */
  readonly embeddings?: Readonly<Record<string, string>>
  /** Milliseconds since 1970, by Redis's clock. */
  readonly updatedAt: number
}

/** What is to be done so that a corpus takes no more room than its pins need. */
export type Settlement =
  | { readonly kind: 'update'; readonly manifest: Manifest; readonly dropped: readonly string[] }
  | {
      readonly kind: 'merge'
      readonly lower: Layer
      readonly upper: Layer
      /** Deleted passages must stay noted where there are layers below, from which they would shine through. */
      readonly keepDeletions: boolean
      /** Once everything is moved. */
      readonly manifest: Manifest
    }

const NOTHING: Manifest = { version: 0, layers: [], pins: {}, updatedAt: 0 }

export function parseManifest(text: string | null): Manifest {
  return text ? (JSON.parse(text) as Manifest) : NOTHING
}

/** Whether there is a corpus now. */
export function isPresent({ layers }: Manifest): boolean {
  const top = layers.at(-1)
  return top !== undefined && !top.removed
}

/** Adds a layer as the new version. */
export function withLayer(manifest: Manifest, layer: Omit<Layer, 'since'>, now: number): Manifest {
  const version = manifest.version + 1
  return { ...manifest, version, layers: [...manifest.layers, { ...layer, since: version }], updatedAt: now }
}

/** The layers of a version that count, uppermost first; undefined where it is not kept, or was none. */
export function layersOf({ layers }: Manifest, version: number): Layer[] | undefined {
  const top = layers.findLastIndex(({ since }) => since === version)
  if (top === -1 || layers[top]?.removed) return undefined
  const counting: Layer[] = []
  for (const layer of layers.slice(0, top + 1).reverse()) {
    counting.push(layer)
    if (layer.full) break
  }
  return counting
}

/**
 * Pins that have run out go with it.
 *
 * @param pin undefined to take the holder's pin away
 */
export function withPin(manifest: Manifest, holder: string, pin: Pin | undefined, now: number): Manifest {
  const { [holder]: _, ...others } = livePins(manifest, now)
  return { ...manifest, pins: pin ? { ...others, [holder]: pin } : others }
}

function livePins({ pins }: Manifest, now: number): Record<string, Pin> {
  return Object.fromEntries(Object.entries(pins).filter(([, { expiresAt }]) => expiresAt > now))
}

/** The next step towards the fewest layers; undefined when there are no more than the pins need. */
export function nextSettlement(manifest: Manifest, now: number): Settlement | undefined {
  const { layers } = manifest
  const pins = livePins(manifest, now)
  const pinned = new Set(Object.values(pins).map(({ version }) => version))
  for (let i = 0; i + 1 < layers.length; i++) {
    const [lower, upper] = layers.slice(i, i + 2)
    if (!lower || !upper) break
    const isMerging = lower.since === upper.since
    if (!isMerging && pinned.has(lower.since)) continue
    if (upper.full) {
      return { kind: 'update', manifest: { ...manifest, pins, layers: layers.toSpliced(i, 1) }, dropped: [lower.id] }
    }
    if (!isMerging) {
      const merging = layers.with(i, { ...lower, since: upper.since })
      return { kind: 'update', manifest: { ...manifest, pins, layers: merging }, dropped: [] }
    }
    const { removed: _, ...rest } = lower
    const dictionaries = [...new Set([...lower.dictionaries, ...upper.dictionaries])]
    const merged = layers.toSpliced(i, 2, { ...rest, dictionaries })
    const keepDeletions = i > 0 && lower.full !== true
    return { kind: 'merge', lower, upper, keepDeletions, manifest: { ...manifest, pins, layers: merged } }
  }
  const [last] = layers
  if (layers.length === 1 && last?.removed) {
    return { kind: 'update', manifest: { ...manifest, layers: [], pins: {} }, dropped: [last.id] }
  }
  // A holder that ended without giving its pin back left nothing else behind.
  if (Object.keys(pins).length < Object.keys(manifest.pins).length) {
    return { kind: 'update', manifest: { ...manifest, pins }, dropped: [] }
  }
  return undefined
}
