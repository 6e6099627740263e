/** The server's name in the first message of a TLS client (RFC 8446 section 4.1.2, RFC 6066 section 3). */
export type ServerName =
  | { readonly kind: "name"; readonly name: string }
  /** TLS without exactly one name, or another protocol; `reason` says which. */
  | { readonly kind: "none"; readonly reason: string }
  /** The name cannot be found before more bytes arrive. */
  | { readonly kind: "incomplete" };

/** Hellos with post-quantum keys have under 4 KiB. */
export const maxHelloBytes = 32 * 1024;

/** Clients use one record, some two. */
const maxHelloRecords = 16;

const handshakeRecord = 22;
const clientHello = 1;
const recordHeaderBytes = 5;
const serverNameExtension = 0;
const hostName = 0;
/** Encrypted client hello (RFC 9849), and its draft of another number. */
const encryptedHelloExtensions = [0xfe0d, 0xffce];

/**
 * Finds the server's name while a ClientHello arrives. Whatever the chunks, each byte is copied twice at most and the
 * message is parsed once, when it is complete: about 1 ms for the largest. Memory: three times {@link maxHelloBytes}
 * and one chunk.
 */
export class HelloReader {
  readonly #received = new GrowingBuffer();
  readonly #handshake = new GrowingBuffer();
  /** The offset of the next unread byte. */
  #at = 0;
  #recordBytesLeft = 0;
  #records = 0;
  #found: ServerName = { kind: "incomplete" };

  /** All bytes so far, including those after the hello. */
  get received(): Buffer {
    return this.#received.bytes;
  }

  /** Reads on. An answer other than `incomplete` is final. */
  push(chunk: Buffer): ServerName {
    this.#received.append(chunk);
    if (this.#found.kind === "incomplete") this.#found = this.#advance();
    return this.#found;
  }

  #advance(): ServerName {
    for (;;) {
      const rest = this.#received.bytes.subarray(this.#at);
      if (this.#recordBytesLeft === 0) {
        const started = this.#startRecord(rest);
        if (started !== undefined) return started;
        continue;
      }
      const part = rest.subarray(0, this.#recordBytesLeft);
      this.#handshake.append(part);
      this.#at += part.length;
      this.#recordBytesLeft -= part.length;
      const read = readHandshake(this.#handshake.bytes);
      if (read.kind !== "incomplete") return read;
      if (this.#at > maxHelloBytes) return none("its hello is too long");
      if (this.#recordBytesLeft > 0) return read;
    }
  }

  /** Undefined when a record has started. */
  #startRecord(header: Buffer): ServerName | undefined {
    if ((header[0] ?? handshakeRecord) !== handshakeRecord || (header[1] ?? 3) !== 3) return none("it is not TLS");
    if (header.length < recordHeaderBytes) return { kind: "incomplete" };
    const size = header.readUInt16BE(3);
    if (size === 0) return none("its hello has an empty record");
    if (this.#records === maxHelloRecords) return none("its hello is in too many records");
    this.#records += 1;
    this.#at += recordHeaderBytes;
    this.#recordBytesLeft = size;
    return undefined;
  }
}

function none(reason: string): ServerName {
  return { kind: "none", reason };
}

function readHandshake(bytes: Buffer): ServerName {
  if (bytes.length > 0 && bytes[0] !== clientHello) return none("it is not TLS");
  if (bytes.length < 4) return { kind: "incomplete" };
  const length = bytes.readUIntBE(1, 3);
  if (length > maxHelloBytes) return none("its hello is too long");
  return bytes.length < 4 + length ? { kind: "incomplete" } : readHello(new Reader(bytes.subarray(4, 4 + length)));
}

function readHello(reader: Reader): ServerName {
  // Skips version and random.
  reader.skip(2 + 32);
  reader.skip(reader.number(1));
  reader.skip(reader.number(2));
  reader.skip(reader.number(1));
  if (!reader.failed && reader.left === 0) return none("it does not state its host name");
  const extensions = reader.part(reader.number(2));
  const names: string[] = [];
  while (!extensions.failed && extensions.left > 0) {
    const type = extensions.number(2);
    const extension = extensions.part(extensions.number(2));
    if (encryptedHelloExtensions.includes(type)) return none("it may hide its name (encrypted client hello)");
    if (type === serverNameExtension && !readNames(extension, names)) return none("its hello is malformed");
  }
  if (extensions.failed) return none("its hello is malformed");
  const [name, ...more] = names;
  if (name === undefined) return none("it does not state its host name");
  return more.length === 0 ? { kind: "name", name } : none("it states several host names");
}

/** False when the extension is malformed. */
function readNames(extension: Reader, names: string[]): boolean {
  const list = extension.part(extension.number(2));
  while (!list.failed && list.left > 0) {
    const kind = list.number(1);
    const name = list.part(list.number(2));
    if (name.failed) return false;
    if (kind === hostName) names.push(name.text());
  }
  return !list.failed && extension.left === 0;
}

/** Reads forwards. A read past the end marks it as failed, and it gives empty values from then on. */
class Reader {
  failed = false;
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.failed ? 0 : this.#bytes.length - this.#at;
  }

  number(size: number): number {
    if (this.left < size) {
      this.failed = true;
      return 0;
    }
    this.#at += size;
    return this.#bytes.readUIntBE(this.#at - size, size);
  }

  skip(size: number): void {
    this.part(size);
  }

  part(size: number): Reader {
    const part = new Reader(this.#bytes.subarray(this.#at, this.#at + size));
    if (this.failed || this.left < size) {
      this.failed = true;
      part.failed = true;
    }
    this.#at += size;
    return part;
  }

  text(): string {
    return this.#bytes.toString("latin1");
  }
}

/** Contiguous bytes that grow by doubling: appending copies each byte a constant number of times. */
class GrowingBuffer {
  #room = Buffer.alloc(2048);
  #length = 0;

  get bytes(): Buffer {
    return this.#room.subarray(0, this.#length);
  }

  append(part: Buffer): void {
    const needed = this.#length + part.length;
    if (needed > this.#room.length) {
      const larger = Buffer.alloc(Math.max(needed, 2 * this.#room.length));
      this.bytes.copy(larger);
      this.#room = larger;
    }
    part.copy(this.#room, this.#length);
    this.#length = needed;
  }
}
