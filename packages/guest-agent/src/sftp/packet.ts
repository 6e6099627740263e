/** The packet is malformed: no later one can be found in the stream. */
export class MalformedPacket extends Error {}

/** Reads the fields of a packet in their order. Each method throws {@link MalformedPacket} when the field is cut off. */
export class PacketReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  byte(): number {
    return this.#take(1).readUInt8();
  }

  uint32(): number {
    return this.#take(4).readUInt32BE();
  }

  /** A 64-bit number: a position in a file. Positions above 2^53 are refused, since no file system has such files. */
  position(): number {
    const value = this.#take(8).readBigUInt64BE();
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new MalformedPacket("a position is beyond every file");
    return Number(value);
  }

  bytes(): Buffer {
    return this.#take(this.uint32());
  }

  text(): string {
    return this.bytes().toString("utf8");
  }

  /** A path without a zero byte, relative to the working directory. Empty: the working directory. */
  path(): Buffer {
    const path = this.bytes();
    if (path.includes(0)) throw new MalformedPacket("a path contains a zero byte");
    return path.length === 0 ? Buffer.from(".") : path;
  }

  #take(length: number): Buffer {
    if (length > this.#bytes.length - this.#at) throw new MalformedPacket("a field is cut off");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

export function uint64(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(8);
  bytes.writeBigUInt64BE(BigInt(Math.max(0, Math.trunc(value))));
  return bytes;
}

/** A text or bytes with their length before them. */
export function sized(content: string | Buffer): Buffer {
  const bytes = typeof content === "string" ? Buffer.from(content, "utf8") : content;
  return Buffer.concat([uint32(bytes.length), bytes]);
}
