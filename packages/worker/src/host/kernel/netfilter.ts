import type { Socket } from "node:net";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import {
  attribute,
  attributesOf,
  exchangeNetlink,
  listOf,
  messagesIn,
  nestedFlag,
  netlinkFlags as flags,
  netlinkMessage,
} from "./netlink.ts";
import { listenToNetlink } from "./sockets.ts";

/*
 * Reads and changes elements of nftables sets by netlink. This takes tens of microseconds; a process of `nft` takes
 * milliseconds. `nft` makes tables, chains and rules; changes while a machine runs go this way. Message layout:
 * linux/netfilter/nfnetlink.h and nf_tables.h.
 */

/** One element. Bytes are in network order and each part of a concatenated key is padded to four bytes. */
export interface SetElement {
  readonly key: Uint8Array;
  /** The value, in a map. */
  readonly value?: Uint8Array;
  /** Marks the first key behind an interval, in an interval set. */
  readonly intervalEnd?: boolean;
  readonly timeoutMs?: number;
}

export type SetChange =
  /** Adding an element that is there already does nothing, even with another timeout or value. */
  | { readonly set: string; readonly add: readonly SetElement[] }
  | { readonly set: string; readonly remove: readonly SetElement[] }
  | { readonly set: string; readonly flush: true };

/** The table of a set: of the family `inet` by default, and in this process's own namespace by default. */
export interface NftTable {
  readonly family?: keyof typeof families;
  readonly table: string;
  readonly namespace?: string;
}

/**
 * Makes all changes at once or none: no packet sees a part of them.
 * @throws `not_found` when the table, a set or an element to remove is missing; `unavailable` otherwise
 */
export function changeSets(where: NftTable, changes: readonly SetChange[]): void {
  const messages = changes.flatMap((change) => messagesOf(where, change));
  const request = Buffer.concat([
    batchMessage(messageTypes.batchBegin, 1),
    ...messages.map((message, index) => message(index + 2)),
    batchMessage(messageTypes.batchEnd, messages.length + 2),
  ]);
  exchange(where.namespace, request, () => undefined);
}

export interface ReadElement {
  readonly key: Buffer;
  /** Milliseconds until the kernel removes it, where the set has timeouts. */
  readonly expiresInMs?: number;
  /** Packets that its counter has counted, where it has one. */
  readonly packets?: number;
}

/** All elements of a set. @throws `not_found` when the set is missing */
export function readSet(where: NftTable, set: string): readonly ReadElement[] {
  const elements: ReadElement[] = [];
  const payload = Buffer.concat([
    textAttribute(attributes.list.table, where.table),
    textAttribute(attributes.list.set, set),
  ]);
  exchange(where.namespace, tableMessage(where, messageTypes.getElements, flags.dump, payload, 1), (message) => {
    const list = attributesOf(message.subarray(netfilterHeaderBytes)).get(attributes.list.elements);
    for (const element of list === undefined ? [] : listOf(list)) elements.push(readElement(element));
  });
  return elements;
}

/** Whether the table exists. */
export function hasTable(where: NftTable): boolean {
  const name = textAttribute(attributes.table.name, where.table);
  const request = tableMessage(where, messageTypes.getTable, flags.ack, name, 1);
  try {
    exchange(where.namespace, request, () => undefined);
    return true;
  } catch (error) {
    if (error instanceof SandboxError && error.code === "not_found") return false;
    throw error;
  }
}

/**
 * Calls `onChange` after any process has changed tables, chains or rules in this process's own namespace, until it is
 * disposed.
 */
export function watchRules(onChange: () => void): Disposable {
  const rulesGroup = 7;
  let ended = false;
  const listen = (): Socket => {
    const socket = listenToNetlink(netlinkNetfilter, rulesGroup);
    socket.on("data", (bytes: Buffer) => {
      if ([...messagesIn(bytes)].some(({ type }) => ruleMessages.has(type))) onChange();
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      if (ended) return;
      // More has changed at once than the kernel buffers for a listener.
      listening = listen();
      onChange();
    });
    return socket.unref();
  };
  let listening = listen();
  return {
    [Symbol.dispose]: () => {
      ended = true;
      listening.destroy();
    },
  };
}

const nftables = 10;
const messageTypes = {
  batchBegin: 16,
  batchEnd: 17,
  getTable: (nftables << 8) | 1,
  addElements: (nftables << 8) | 12,
  getElements: (nftables << 8) | 13,
  removeElements: (nftables << 8) | 14,
} as const;
/** New and removed tables, chains and rules; changes of set elements are not among them. */
const ruleMessages = new Set([0, 2, 3, 5, 6, 8].map((type) => (nftables << 8) | type));
const attributes = {
  table: { name: 1 },
  list: { table: 1, set: 2, elements: 3, element: 1 },
  element: { key: 1, value: 2, flags: 3, timeout: 4, expiration: 5, expression: 7 },
  data: { value: 1 },
  expression: { data: 2 },
  counter: { packets: 2 },
} as const;
const intervalEndFlag = 1;
/** NFPROTO_ in linux/netfilter.h. */
const families = { inet: 1, netdev: 5 } as const;
const netlinkNetfilter = 12;
const netfilterHeaderBytes = 4;

// One netlink message takes at most 64 KiB of attributes; a hundred bytes are more than an element needs.
const elementsPerMessage = 400;

type Numbered = (sequence: number) => Buffer;

function messagesOf(where: NftTable, change: SetChange): Numbered[] {
  const named = [textAttribute(attributes.list.table, where.table), textAttribute(attributes.list.set, change.set)];
  if ("flush" in change) {
    const payload = Buffer.concat(named);
    return [(sequence) => tableMessage(where, messageTypes.removeElements, flags.ack, payload, sequence)];
  }
  const [type, extra, elements] =
    "add" in change
      ? ([messageTypes.addElements, flags.create, change.add] as const)
      : ([messageTypes.removeElements, 0, change.remove] as const);
  const messages: Numbered[] = [];
  for (let first = 0; first < elements.length; first += elementsPerMessage) {
    const part = elements.slice(first, first + elementsPerMessage);
    const list = part.map((element) => nested(attributes.list.element, elementAttributes(element)));
    const payload = Buffer.concat([...named, nested(attributes.list.elements, Buffer.concat(list))]);
    messages.push((sequence) => tableMessage(where, type, flags.ack | extra, payload, sequence));
  }
  return messages;
}

function elementAttributes({ key, value, intervalEnd = false, timeoutMs }: SetElement): Buffer {
  return Buffer.concat([
    nested(attributes.element.key, attribute(attributes.data.value, key)),
    ...(value === undefined ? [] : [nested(attributes.element.value, attribute(attributes.data.value, value))]),
    ...(intervalEnd ? [attribute(attributes.element.flags, bigEndian32(intervalEndFlag))] : []),
    ...(timeoutMs === undefined ? [] : [attribute(attributes.element.timeout, bigEndian64(timeoutMs))]),
  ]);
}

function readElement(bytes: Buffer): ReadElement {
  const found = attributesOf(bytes);
  const key = attributesOf(found.get(attributes.element.key) ?? Buffer.alloc(0)).get(attributes.data.value);
  const expiration = found.get(attributes.element.expiration);
  const expression = found.get(attributes.element.expression);
  const counter = expression && attributesOf(expression).get(attributes.expression.data);
  const packets = counter && attributesOf(counter).get(attributes.counter.packets);
  return {
    key: Buffer.from(key ?? []),
    ...(expiration === undefined ? {} : { expiresInMs: Number(expiration.readBigUInt64BE()) }),
    ...(packets === undefined ? {} : { packets: Number(packets.readBigUInt64BE()) }),
  };
}

function exchange(namespace: string | undefined, request: Buffer, onMessage: (message: Buffer) => void): void {
  exchangeNetlink(netlinkNetfilter, namespace, request, { refuse, onMessage });
}

function refuse(errno: string): never {
  const message = `nftables refused the change: ${errno}`;
  if (errno === "ENOENT") throw new SandboxError("not_found", message, { resource: "network", id: "nftables" });
  throw new SandboxError("unavailable", message);
}

function tableMessage(
  { family = "inet" }: NftTable,
  type: number,
  extraFlags: number,
  payload: Uint8Array,
  sequence: number,
): Buffer {
  return netlinkMessage(type, extraFlags, Buffer.concat([Buffer.from([families[family], 0, 0, 0]), payload]), sequence);
}

function batchMessage(type: number, sequence: number): Buffer {
  return netlinkMessage(type, 0, Buffer.from([0, 0, 0, nftables]), sequence);
}

function nested(type: number, payload: Uint8Array): Buffer {
  return attribute(type | nestedFlag, payload);
}

function textAttribute(type: number, text: string): Buffer {
  return attribute(type, Buffer.from(`${text}\0`));
}

function bigEndian32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function bigEndian64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
