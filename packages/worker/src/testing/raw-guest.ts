import { closeSync, openSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { checked, getRawPointer, openLibc } from "#host/kernel/ffi.ts";

const libc = openLibc({
  eventfd: { return: "i32", arguments: ["u32", "i32"] },
  ioctl: { return: "i32", arguments: ["i32", "u64", "pointer"] },
});

/** The operations of virtio-vsock packets (section 5.10.6 of the virtio specification). */
export const operations = { request: 1, response: 2, rst: 3, shutdown: 4, rw: 5, creditUpdate: 6, creditRequest: 7 };

export interface Packet {
  readonly op: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly payload?: Uint8Array;
  readonly flags?: number;
  /** Room of the sender's buffer, and the bytes that it has taken from it so far. */
  readonly bufferBytes?: number;
  readonly takenBytes?: number;
}

const headerBytes = 44;
const queueLength = 256;
const bufferBytes = 8192;
/** Each queue has its descriptors, available ring and used ring in this many bytes. */
const ringBytes = 16 * 1024;

/**
 * A guest that is a vsock driver and nothing else: this process owns its memory and queues, so it sends any packet that a
 * guest's kernel could send. Needs root and /dev/vhost-vsock.
 */
export class RawGuest implements Disposable {
  readonly cid: number;
  readonly #device: number;
  readonly #memory = Buffer.alloc(2 * ringBytes + 2 * queueLength * bufferBytes);
  readonly #kicks: readonly [number, number];
  #sent = 0;
  #received = 0;
  #inbox: Packet[] = [];

  constructor(cid: number) {
    this.cid = cid;
    this.#device = openSync("/dev/vhost-vsock", "r+");
    this.#kicks = [checked("eventfd", libc.eventfd(0, 0)), checked("eventfd", libc.eventfd(0, 0))];
    // linux/vhost.h
    this.#set(0xaf01n, Buffer.alloc(8));
    const VIRTIO_F_VERSION_1 = 1n << 32n;
    this.#set(0x4008_af00n, u64(VIRTIO_F_VERSION_1));
    const base = getRawPointer(this.#memory);
    const table = Buffer.alloc(40);
    table.writeUInt32LE(1, 0);
    table.writeBigUInt64LE(0n, 8);
    table.writeBigUInt64LE(BigInt(this.#memory.length), 16);
    table.writeBigUInt64LE(base, 24);
    this.#set(0x4008_af03n, table);
    for (const [queue, kick] of this.#kicks.entries()) {
      this.#set(0x4008_af10n, pair(queue, queueLength));
      this.#set(0x4008_af12n, pair(queue, 0));
      const rings = base + BigInt(queue * ringBytes);
      const addresses = Buffer.alloc(40);
      addresses.writeUInt32LE(queue, 0);
      addresses.writeBigUInt64LE(rings, 8);
      addresses.writeBigUInt64LE(rings + BigInt(usedAt), 16);
      addresses.writeBigUInt64LE(rings + BigInt(availableAt), 24);
      this.#set(0x4028_af11n, addresses);
      this.#set(0x4008_af20n, pair(queue, kick));
    }
    for (let index = 0; index < queueLength; index += 1) {
      const VRING_DESC_F_WRITE = 2;
      this.#describe(receiving, index, bufferBytes, VRING_DESC_F_WRITE);
      this.#offer(receiving, index);
    }
    this.#set(0x4008_af60n, u64(BigInt(cid)));
    this.#set(0x4004_af61n, pair(1, 0));
    this.#kick(receiving);
  }

  /** Sends a packet to the host. `sourceCid`: another address than this guest's own. */
  async send(packet: Packet, sourceCid = this.cid): Promise<void> {
    // The device takes the packets in order; a full queue is left to it for a moment.
    while (((this.#sent - this.#used(sending)) & 0xffff) >= queueLength) await sleep(1);
    const index = this.#sent % queueLength;
    const payload = packet.payload ?? new Uint8Array(0);
    const at = bufferAt(sending, index);
    this.#memory.fill(0, at, at + headerBytes);
    this.#memory.writeBigUInt64LE(BigInt(sourceCid), at);
    this.#memory.writeBigUInt64LE(2n, at + 8);
    this.#memory.writeUInt32LE(packet.sourcePort, at + 16);
    this.#memory.writeUInt32LE(packet.destinationPort, at + 20);
    this.#memory.writeUInt32LE(payload.length, at + 24);
    const VIRTIO_VSOCK_TYPE_STREAM = 1;
    this.#memory.writeUInt16LE(VIRTIO_VSOCK_TYPE_STREAM, at + 28);
    this.#memory.writeUInt16LE(packet.op, at + 30);
    this.#memory.writeUInt32LE(packet.flags ?? 0, at + 32);
    this.#memory.writeUInt32LE(packet.bufferBytes ?? 262_144, at + 36);
    this.#memory.writeUInt32LE(packet.takenBytes ?? 0, at + 40);
    this.#memory.set(payload, at + headerBytes);
    this.#describe(sending, index, headerBytes + payload.length, 0);
    this.#offer(sending, index);
    this.#sent += 1;
    this.#kick(sending);
  }

  /** Resolves when the host has taken every packet that was sent. */
  async flushed(): Promise<void> {
    const deadline = performance.now() + 30_000;
    while (((this.#sent - this.#used(sending)) & 0xffff) !== 0) {
      if (performance.now() > deadline) throw new Error("the host has not taken the guest's packets within 30 s");
      await sleep(1);
    }
  }

  /** Takes the packets that have arrived and were not taken before. */
  received(): readonly Packet[] {
    const packets = this.#inbox;
    this.#inbox = [];
    for (; ((this.#used(receiving) - this.#received) & 0xffff) !== 0; this.#received += 1) {
      const element = receiving * ringBytes + usedAt + 4 + (this.#received % queueLength) * 8;
      const index = this.#memory.readUInt32LE(element);
      const at = bufferAt(receiving, index);
      const length = this.#memory.readUInt32LE(at + 24);
      packets.push({
        op: this.#memory.readUInt16LE(at + 30),
        sourcePort: this.#memory.readUInt32LE(at + 16),
        destinationPort: this.#memory.readUInt32LE(at + 20),
        bufferBytes: this.#memory.readUInt32LE(at + 36),
        takenBytes: this.#memory.readUInt32LE(at + 40),
        payload: Buffer.from(this.#memory.subarray(at + headerBytes, at + headerBytes + length)),
      });
      this.#offer(receiving, index);
      this.#kick(receiving);
    }
    return packets;
  }

  /** Takes the packets up to the first one of `op`, and returns that. */
  async receive(op: keyof typeof operations): Promise<Packet> {
    const deadline = performance.now() + 30_000;
    while (performance.now() < deadline) {
      const packets = this.received();
      const found = packets.findIndex((packet) => packet.op === operations[op]);
      if (found !== -1) {
        this.#inbox = packets.slice(found + 1);
        return packets[found]!;
      }
      this.#inbox = [...packets];
      await sleep(1);
    }
    throw new Error(`the host has sent no packet ${op} within 30 s, but ${JSON.stringify(this.#inbox)}`);
  }

  [Symbol.dispose](): void {
    closeSync(this.#device);
    for (const kick of this.#kicks) closeSync(kick);
  }

  #set(request: bigint, argument: Buffer): void {
    checked(`ioctl ${request.toString(16)}`, libc.ioctl(this.#device, request, argument));
  }

  #describe(queue: number, index: number, length: number, flags: number): void {
    const at = queue * ringBytes + index * 16;
    this.#memory.writeBigUInt64LE(BigInt(bufferAt(queue, index)), at);
    this.#memory.writeUInt32LE(length, at + 8);
    this.#memory.writeUInt16LE(flags, at + 12);
  }

  /** Makes a buffer available to the device. */
  #offer(queue: number, index: number): void {
    const at = queue * ringBytes + availableAt;
    const next = this.#memory.readUInt16LE(at + 2);
    this.#memory.writeUInt16LE(index, at + 4 + (next % queueLength) * 2);
    this.#memory.writeUInt16LE((next + 1) & 0xffff, at + 2);
  }

  /** How many buffers the device has used, modulo 65536. */
  #used(queue: number): number {
    return this.#memory.readUInt16LE(queue * ringBytes + usedAt + 2);
  }

  #kick(queue: number): void {
    writeSync(this.#kicks[queue]!, u64(1n));
  }
}

/** Queues by their numbers. */
const receiving = 0;
const sending = 1;

const availableAt = queueLength * 16;
const usedAt = 2 * availableAt;

function bufferAt(queue: number, index: number): number {
  return 2 * ringBytes + (queue * queueLength + index) * bufferBytes;
}

function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

function pair(first: number, second: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(first, 0);
  bytes.writeUInt32LE(second, 4);
  return bytes;
}
