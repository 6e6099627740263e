import { SandboxError } from "../errors.ts";
import type { ConnectFailure } from "./errors.ts";

/** Flags of an envelope: its message is compressed, or it ends the stream. */
const compressed = 0x01;
const endOfStream = 0x02;
const headBytes = 5;

/** A message of a stream: one byte of flags, its length as a big-endian uint32, and JSON. */
export function envelopeOf(message: object): Uint8Array {
  return enveloped(0, message);
}

/** The last envelope of a stream, which carries its failure if there is one. */
export function endEnvelopeOf(failure?: ConnectFailure): Uint8Array {
  return enveloped(endOfStream, failure === undefined ? {} : { error: failure });
}

/** The message of the only envelope in a body. @throws `invalid_argument` */
export function messageIn(body: Uint8Array): { readonly bytes: Uint8Array; readonly compressed: boolean } {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  if (body.length < headBytes) throw new SandboxError("invalid_argument", "the request has no envelope");
  const flags = view.getUint8(0);
  const length = view.getUint32(1);
  if (body.length < headBytes + length) throw new SandboxError("invalid_argument", "the request's envelope is cut off");
  return { bytes: body.subarray(headBytes, headBytes + length), compressed: (flags & compressed) !== 0 };
}

function enveloped(flags: number, message: object): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify(message));
  const bytes = new Uint8Array(headBytes + text.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, flags);
  view.setUint32(1, text.length);
  bytes.set(text, headBytes);
  return bytes;
}
