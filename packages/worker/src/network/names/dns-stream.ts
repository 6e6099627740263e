/** A peer announced a message that is longer than the reader accepts. */
export class MessageTooLong extends Error {}

/**
 * Reads DNS over TCP, where each message follows its length in two bytes. Whatever the sizes of the chunks, each byte is
 * copied once; memory is at most one message of `maxBytes`.
 */
export class MessageReader {
  readonly #maxBytes: number;
  readonly #header = Buffer.alloc(2);
  #headerBytes = 0;
  #message = Buffer.alloc(0);
  #filled = 0;

  constructor(maxBytes = 0xffff) {
    this.#maxBytes = maxBytes;
  }

  /** The messages that `chunk` completes. @throws {@link MessageTooLong} */
  push(chunk: Buffer): Buffer[] {
    const messages: Buffer[] = [];
    for (let at = 0; at < chunk.length;) {
      if (this.#headerBytes < 2) {
        this.#header[this.#headerBytes] = chunk[at]!;
        this.#headerBytes += 1;
        at += 1;
        if (this.#headerBytes < 2) continue;
        this.#startMessage(this.#header.readUInt16BE());
      } else {
        const copied = chunk.copy(this.#message, this.#filled, at);
        this.#filled += copied;
        at += copied;
      }
      if (this.#filled < this.#message.length) continue;
      messages.push(this.#message);
      this.#headerBytes = 0;
    }
    return messages;
  }

  #startMessage(bytes: number): void {
    if (bytes > this.#maxBytes)
      throw new MessageTooLong(`a DNS message of ${bytes} bytes; ${this.#maxBytes} are accepted`);
    this.#message = Buffer.alloc(bytes);
    this.#filled = 0;
  }
}

/** A message as it goes over TCP. */
export function withLength(message: Buffer): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(message.length);
  return Buffer.concat([length, message]);
}
