// Reads protocol buffers: fields, numbers of 64 bits, lengths. Every read is checked against the end
// of its message, since the file may be damaged or hostile.

export class FormatError extends Error {}

export const VARINT = 0;
const FIXED_64 = 1;
export const BYTES = 2;
const FIXED_32 = 5;

/** Two unsigned halves as an int64. */
export const int64 = (low, high) => BigInt.asIntN(64, (BigInt(high) << 32n) | BigInt(low));

export class Message {
  constructor(bytes, start = 0, end = bytes.length) {
    this.bytes = bytes;
    this.at = start;
    this.end = end;
    this.field = 0;
    this.kind = 0;
    // The number that was read last, as two unsigned halves: a JavaScript number holds 53 bits.
    this.low = 0;
    this.high = 0;
  }

  /** Moves to the next field; false at the end. */
  next() {
    if (this.at >= this.end) return false;
    const key = this.number();
    this.field = Math.floor(key / 8);
    this.kind = key % 8;
    return true;
  }

  readVarint() {
    const { bytes, at } = this;
    // Nearly all numbers take one byte or two.
    if (at + 1 < this.end) {
      const first = bytes[at];
      const second = bytes[at + 1];
      if (first < 0x80) {
        this.at = at + 1;
        this.low = first;
        this.high = 0;
        return;
      }
      if (second < 0x80) {
        this.at = at + 2;
        this.low = (first & 0x7f) | (second << 7);
        this.high = 0;
        return;
      }
    }
    this.readLongVarint();
  }

  readLongVarint() {
    let low = 0;
    let high = 0;
    for (let index = 0; index < 10; index++) {
      if (this.at >= this.end) throw new FormatError("a number is cut short");
      const byte = this.bytes[this.at++];
      const bits = byte & 0x7f;
      if (index < 4) low |= bits << (7 * index);
      else if (index === 4) {
        low |= bits << 28;
        high |= bits >>> 4;
      } else high |= bits << (7 * index - 32);
      if (byte < 0x80) {
        this.low = low >>> 0;
        this.high = high >>> 0;
        return;
      }
    }
    throw new FormatError("a number is longer than 64 bits");
  }

  /** An unsigned number of at most 53 bits, as ids, lengths and indexes are. */
  number() {
    this.readVarint();
    if (this.high > 0x1fffff) throw new FormatError("an id or a length is out of range");
    return this.high * 2 ** 32 + this.low;
  }

  /** A whole int64. */
  signed() {
    this.readVarint();
    return int64(this.low, this.high);
  }

  /** A line number: what cannot be one is 0. */
  line() {
    this.readVarint();
    return this.high === 0 ? this.low : 0;
  }

  /** The end of the content that begins here; the caller reads it or jumps over it. */
  length() {
    const length = this.number();
    if (length > this.end - this.at) throw new FormatError("a field is cut short");
    return this.at + length;
  }

  /** The content of a field with a length, as a message of its own. */
  inner() {
    if (this.kind !== BYTES) throw new FormatError("a field has the wrong type");
    const end = this.length();
    const message = new Message(this.bytes, this.at, end);
    this.at = end;
    return message;
  }

  skip() {
    if (this.kind === VARINT) this.readVarint();
    else if (this.kind === BYTES) this.at = this.length();
    else if (this.kind === FIXED_64 || this.kind === FIXED_32) {
      this.at += this.kind === FIXED_64 ? 8 : 4;
      if (this.at > this.end) throw new FormatError("a field is cut short");
    } else throw new FormatError("a field has an unknown type");
  }

  /** Calls `visit` after each number of a repeated field, packed or not. */
  eachVarint(visit) {
    if (this.kind === VARINT) {
      this.readVarint();
      visit(this.low, this.high);
      return;
    }
    const packed = this.inner();
    while (packed.at < packed.end) {
      packed.readVarint();
      visit(packed.low, packed.high);
    }
  }
}
