/**
 * The name that a TLS client asks for (RFC 8446 section 4.1.2, RFC 6066 section 3), read from the first bytes that it
 * sends. `incomplete`: more bytes are needed. `none`: it is TLS without a name, or no TLS at all.
 */
export type ServerName = { readonly kind: "name"; readonly name: string } | { readonly kind: "none" | "incomplete" };

const handshakeRecord = 22;
const clientHello = 1;
const serverNameExtension = 0;
const hostName = 0;

export function readServerName(bytes: Buffer): ServerName {
  const handshake = handshakeOf(bytes);
  if (handshake === undefined) return { kind: "none" };
  if (handshake === "incomplete") return { kind: "incomplete" };
  const reader = new Reader(handshake);
  // Version and random.
  reader.skip(2 + 32);
  reader.skip(reader.number(1));
  reader.skip(reader.number(2));
  reader.skip(reader.number(1));
  const extensions = reader.part(reader.number(2));
  while (!extensions.failed && extensions.left > 0) {
    const type = extensions.number(2);
    const extension = extensions.part(extensions.number(2));
    if (type !== serverNameExtension) continue;
    const names = extension.part(extension.number(2));
    while (!names.failed && names.left > 0) {
      const kind = names.number(1);
      const name = names.part(names.number(2));
      if (kind === hostName && !name.failed) return { kind: "name", name: name.text() };
    }
  }
  return { kind: "none" };
}

/** The body of the ClientHello, joined from as many records as it comes in. */
function handshakeOf(bytes: Buffer): Buffer | "incomplete" | undefined {
  const parts: Buffer[] = [];
  let length = 0;
  for (let at = 0; ;) {
    const record = bytes.subarray(at, at + 5);
    if (record.length > 0 && record[0] !== handshakeRecord) return undefined;
    if (record.length > 1 && record[1] !== 3) return undefined;
    if (record.length < 5) return "incomplete";
    const size = record.readUInt16BE(3);
    const part = bytes.subarray(at + 5, at + 5 + size);
    parts.push(part);
    length += part.length;
    const message = Buffer.concat(parts);
    if (message.length > 0 && message[0] !== clientHello) return undefined;
    if (message.length >= 4) {
      const needed = message.readUIntBE(1, 3);
      if (length - 4 >= needed) return message.subarray(4, 4 + needed);
    }
    if (part.length < size || size === 0) return size === 0 ? undefined : "incomplete";
    at += 5 + size;
  }
}

/** Reads forwards; past the end it has failed, and all it gives is empty. */
class Reader {
  failed = false;
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
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
