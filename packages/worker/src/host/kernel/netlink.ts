import { closeSync } from "node:fs";
import { errnoName } from "./ffi.ts";
import { openNetlinkSocket, receiveBytes, sendBytes } from "./sockets.ts";

/*
 * The part that all netlink protocols share: messages, attributes, and the exchange of a request and its answers.
 * Layout: linux/netlink.h; numbers are in the host's byte order.
 */

/** `replace` and `dump` share bits: they belong to different kinds of requests. */
export const netlinkFlags = { request: 0x1, ack: 0x4, replace: 0x100, dump: 0x300, create: 0x400 } as const;
export const nestedFlag = 0x8000;
const messageTypes = { error: 2, done: 3 } as const;
const headerBytes = 16;

export interface Answers {
  /** Called with the name of the errno when the kernel refuses the request. */
  readonly refuse: (errno: string) => never;
  readonly onMessage?: (payload: Buffer) => void;
}

/** Sends the request and reads every answer. The kernel has answered when `send` returns, so nothing waits. */
export function exchangeNetlink(
  protocol: number,
  namespace: string | undefined,
  request: Buffer,
  { refuse, onMessage }: Answers,
): void {
  const fd = openNetlinkSocket(protocol, namespace);
  try {
    sendBytes(fd, request);
    const buffer = Buffer.alloc(128 * 1024);
    for (;;) {
      const datagram = receiveBytes(fd, buffer);
      if (datagram === undefined) return;
      for (const { type, payload } of messagesIn(datagram)) {
        if (type === messageTypes.done) return;
        if (type !== messageTypes.error) onMessage?.(payload);
        // The error code 0 acknowledges the request.
        else if (payload.readInt32LE() !== 0) refuse(errnoName(-payload.readInt32LE()));
      }
    }
  } finally {
    closeSync(fd);
  }
}

export function* messagesIn(datagram: Buffer): Generator<{ readonly type: number; readonly payload: Buffer }> {
  for (let at = 0; at + headerBytes <= datagram.length;) {
    const length = datagram.readUInt32LE(at);
    if (length < headerBytes) return;
    yield { type: datagram.readUInt16LE(at + 4), payload: datagram.subarray(at + headerBytes, at + length) };
    at += aligned(length);
  }
}

export function netlinkMessage(type: number, extraFlags: number, payload: Uint8Array, sequence: number): Buffer {
  const bytes = Buffer.alloc(aligned(headerBytes + payload.length));
  bytes.writeUInt32LE(headerBytes + payload.length, 0);
  bytes.writeUInt16LE(type, 4);
  bytes.writeUInt16LE(netlinkFlags.request | extraFlags, 6);
  bytes.writeUInt32LE(sequence, 8);
  bytes.set(payload, headerBytes);
  return bytes;
}

export function attribute(type: number, payload: Uint8Array): Buffer {
  const bytes = Buffer.alloc(aligned(4 + payload.length));
  bytes.writeUInt16LE(4 + payload.length, 0);
  bytes.writeUInt16LE(type, 2);
  bytes.set(payload, 4);
  return bytes;
}

export function attributesOf(bytes: Buffer): Map<number, Buffer> {
  return new Map(attributePairs(bytes));
}

/** The payloads of a list, whose attributes all have the same type. */
export function listOf(bytes: Buffer): Buffer[] {
  return [...attributePairs(bytes)].map(([, payload]) => payload);
}

function* attributePairs(bytes: Buffer): Generator<[number, Buffer]> {
  for (let at = 0; at + 4 <= bytes.length;) {
    const length = bytes.readUInt16LE(at);
    if (length < 4) return;
    yield [bytes.readUInt16LE(at + 2) & ~nestedFlag & 0x3fff, bytes.subarray(at + 4, at + length)];
    at += aligned(length);
  }
}

function aligned(length: number): number {
  return (length + 3) & ~3;
}
