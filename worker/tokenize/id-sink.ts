/** A growing list of token ids with a limit: encoders stop once it is full. */
export class IdSink {
  private ids = new Int32Array(1024)
  private limit = 0
  length = 0

  /** Empties the sink; it is full once it holds limit ids (further ones are dropped). */
  reset(limit: number): void {
    this.limit = limit
    this.length = 0
  }

  get full(): boolean {
    return this.length >= this.limit
  }

  /** How many more ids fit. */
  get room(): number {
    return this.limit - this.length
  }

  push(id: number): void {
    if (this.length >= this.limit) return
    if (this.length === this.ids.length) {
      const grown = new Int32Array(this.ids.length * 2)
      grown.set(this.ids)
      this.ids = grown
    }
    this.ids[this.length] = id
    this.length += 1
  }

  /** Forgets the ids from index length on. */
  cut(length: number): void {
    this.length = length
  }

  /** A copy of the first count ids. */
  copy(count: number): Int32Array {
    return this.ids.slice(0, Math.min(count, this.length))
  }
}
