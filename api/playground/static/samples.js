// Arrays that grow: bytes as they arrive, samples as they are decoded.

export const SAMPLE_RATE = 24000;

/** A typed array with room to grow; `view` is what is in it so far. */
export class Growing {
  constructor(Type) {
    this.data = new Type(1 << 15);
    this.length = 0;
  }

  append(values) {
    const needed = this.length + values.length;
    if (needed > this.data.length) {
      const larger = new this.data.constructor(Math.max(needed, this.data.length * 2));
      larger.set(this.view());
      this.data = larger;
    }
    this.data.set(values, this.length);
    this.length = needed;
  }

  view(from = 0, to = this.length) {
    return this.data.subarray(from, to);
  }
}
