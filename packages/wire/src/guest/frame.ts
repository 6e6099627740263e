/**
 * The frames of the agent channel: a 16-byte header, little-endian, then the payload.
 *
 * ```
 *  0  u32  length of the payload
 *  4  u32  stream; 0 belongs to the channel itself
 *  8  u32  epoch: every Hello of the host starts a new one, and frames of any other are discarded
 * 12  u8   type
 * 13  u8   tag: the method of `open`, the pipe of `data`
 * 14  u16  check: a sum over bytes 0 to 13, so that remains of an earlier connection do not pass as a header
 * ```
 */
export interface Frame {
  readonly stream: number;
  readonly epoch: number;
  readonly type: FrameType;
  readonly tag: number;
  readonly payload: Uint8Array;
}

export const frameTypes = {
  hello: 1,
  /** Host to guest: starts a stream; the tag is the method, the payload its request. */
  open: 2,
  message: 3,
  data: 4,
  /** The sender is done. The guest's ends the stream and carries the reply. */
  end: 5,
  /** The guest ends the stream with a `Failure`. */
  failure: 6,
  /** Host to guest: the host gives the stream up. */
  reset: 7,
  /** Payload u32: number of further bytes of `message` and `data` that may be sent on the stream. */
  credit: 8,
} as const;

export type FrameType = (typeof frameTypes)[keyof typeof frameTypes];

export const headerBytes = 16;

/**
 * A data frame with its header fills one write of the guest's virtio-serial driver, which takes at most 32 KiB at a time
 * (`port_fops_write` in drivers/char/virtio_console.c of Linux).
 */
export const maxDataBytes = 32 * 1024 - headerBytes;

/**
 * Data frames of the host have no such limit. A request's body is read in parts of this size; smaller ones cost the
 * guest more.
 */
export const maxHostDataBytes = 64 * 1024;

/** An `open` may carry arguments and an environment, for which Linux takes at most 2 MiB together (execve(2)). */
export const maxPayloadBytes = 2 * 1024 * 1024;

const lastType = frameTypes.credit;

export function encodeFrame(frame: Frame): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(headerBytes + frame.payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, frame.payload.length, true);
  view.setUint32(4, frame.stream, true);
  view.setUint32(8, frame.epoch, true);
  view.setUint8(12, frame.type);
  view.setUint8(13, frame.tag);
  view.setUint16(14, headerCheck(bytes, 0), true);
  bytes.set(frame.payload, headerBytes);
  return bytes;
}

/**
 * Turns any split of the byte stream back into frames. Bytes that cannot open a frame are skipped and counted, so a
 * reader that joins in the middle of a connection finds the next frame. At most one incomplete frame is held, in a
 * buffer of its own: a part of a frame does not keep its chunk alive.
 */
export class FrameReader {
  /** Bytes skipped since the last frame. */
  skipped = 0;
  /** Less than a header: the bytes may or may not open a frame. */
  #rest: Uint8Array = new Uint8Array(0);
  /** An incomplete frame, of which the first `length` bytes have arrived. */
  #begun: { readonly bytes: Uint8Array; length: number } | undefined;

  /** The frames that `chunk` completes. Payloads may be views of `chunk`: it must not be written to again. */
  push(chunk: Uint8Array): Frame[] {
    const frames: Frame[] = [];
    const rest = this.#begun === undefined ? chunk : this.#finish(this.#begun, chunk, frames);
    if (rest.length > 0) this.#scan(this.#rest.length === 0 ? rest : join(this.#rest, rest), frames);
    return frames;
  }

  /** Completes the frame in progress if `chunk` holds its end. Returns the bytes of `chunk` after the frame. */
  #finish(begun: { readonly bytes: Uint8Array; length: number }, chunk: Uint8Array, frames: Frame[]): Uint8Array {
    const part = chunk.subarray(0, begun.bytes.length - begun.length);
    begun.bytes.set(part, begun.length);
    begun.length += part.length;
    if (begun.length === begun.bytes.length) {
      this.#begun = undefined;
      this.skipped = 0;
      frames.push(frameAt(begun.bytes, 0));
    }
    return chunk.subarray(part.length);
  }

  #scan(bytes: Uint8Array, frames: Frame[]): void {
    this.#rest = new Uint8Array(0);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    while (bytes.length - at >= headerBytes) {
      if (!opensFrame(bytes, view, at)) {
        at += 1;
        this.skipped += 1;
        continue;
      }
      const length = headerBytes + view.getUint32(at, true);
      const present = Math.min(length, bytes.length - at);
      if (present < length) {
        const begun = new Uint8Array(length);
        begun.set(bytes.subarray(at));
        this.#begun = { bytes: begun, length: present };
        return;
      }
      this.skipped = 0;
      frames.push(frameAt(bytes, at));
      at += length;
    }
    this.#rest = bytes.slice(at);
  }
}

/** Decodes the complete frame at `at`. */
function frameAt(bytes: Uint8Array, at: number): Frame {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, headerBytes);
  return {
    stream: view.getUint32(4, true),
    epoch: view.getUint32(8, true),
    type: view.getUint8(12) as FrameType,
    tag: view.getUint8(13),
    payload: bytes.subarray(at + headerBytes, at + headerBytes + view.getUint32(0, true)),
  };
}

function opensFrame(bytes: Uint8Array, view: DataView, at: number): boolean {
  const type = bytes[at + 12]!;
  return (
    type >= 1 &&
    type <= lastType &&
    view.getUint32(at, true) <= maxPayloadBytes &&
    view.getUint16(at + 14, true) === headerCheck(bytes, at)
  );
}

/** Fletcher's checksum, with start values that sixteen zero bytes do not match. */
function headerCheck(bytes: Uint8Array, at: number): number {
  let low = 0x5a;
  let high = 0xa5;
  for (let index = at; index < at + 14; index += 1) {
    low = (low + bytes[index]!) % 255;
    high = (high + low) % 255;
  }
  return (high << 8) | low;
}

function join(first: Uint8Array, second: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(first.length + second.length);
  bytes.set(first);
  bytes.set(second, first.length);
  return bytes;
}
