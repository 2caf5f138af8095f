/** Any pre-tokeniser before any model, piece by piece: slower than the encoders that read whole texts. */
import type { IdSink } from './id-sink.js'
import type { PieceModel } from './piece-models.js'
import type { Cut } from './pre-tokenizers.js'
import type { PieceEncoder } from './text-pipeline.js'

export class GeneralEncoder implements PieceEncoder {
  readonly #cut: Cut
  readonly #model: PieceModel

  constructor(cut: Cut, model: PieceModel) {
    this.#cut = cut
    this.#model = model
  }

  /** The piece has to be read to its end: `open` is not known here. */
  encode(piece: string, firstUnits: number, _open: boolean, sink: IdSink): void {
    for (const { text } of this.#cut({ text: piece, firstUnits })) {
      if (sink.full) return
      if (text !== '') this.#model.push(text, sink)
    }
  }
}
