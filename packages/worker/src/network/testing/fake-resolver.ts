import { createSocket } from "node:dgram";
import { createServer } from "node:net";
import { openTcpListener, openUdpSocket } from "#host/kernel/sockets.ts";
import { ipv4Bytes, parseIpv4 } from "@opensandbox/wire/ipv4.ts";
import { parseQuestion, recordTypes } from "../names/dns-message.ts";
import { MessageReader, withLength } from "../names/dns-stream.ts";

/** For each name its IPv4 or IPv6 addresses, or the one name that it is an alias of. */
export type Zone = Record<string, readonly string[]>;

export interface FakeResolver extends Disposable {
  /** The questions so far: transport, name and type. */
  readonly asked: string[];
}

/** A name server on this host's loopback, like systemd-resolved's. Answers from `zone`, which may change. */
export function startFakeResolver(zone: Zone, { ttl = 300, address = "127.0.0.53" } = {}): FakeResolver {
  const asked: string[] = [];
  const here = "/proc/self/ns/net";
  const answer = (message: Buffer, transport: string): Buffer | undefined => {
    const question = parseQuestion(message);
    if (question?.name === undefined) return undefined;
    asked.push(`${transport} ${question.name} ${question.type}`);
    return replyTo(message, question.bytes, question.name, question.type, zone, ttl, transport);
  };
  const datagrams = createSocket("udp4");
  datagrams.bind({ fd: openUdpSocket(here, { address, port: 53 }) });
  datagrams.on("message", (message, from) => {
    const reply = answer(message, "udp");
    if (reply !== undefined) datagrams.send(reply, from.port, from.address);
  });
  const streams = createServer((socket) => {
    const reader = new MessageReader();
    socket.on("error", () => socket.destroy());
    socket.on("data", (chunk: Buffer) => {
      for (const message of reader.push(chunk)) {
        const reply = answer(message, "tcp");
        if (reply !== undefined) socket.write(withLength(reply));
      }
    });
  });
  streams.listen({ fd: openTcpListener(here, { address, port: 53 }) });
  return {
    asked,
    [Symbol.dispose]: () => {
      datagrams.close();
      streams.close();
    },
  };
}

function replyTo(
  message: Buffer,
  question: Buffer,
  name: string,
  type: number,
  zone: Zone,
  ttl: number,
  transport: string,
): Buffer {
  const records: Buffer[] = [];
  let owner = name;
  for (let target = zone[owner]?.[0]; target !== undefined && isName(target); target = zone[owner]?.[0]) {
    records.push(record(owner, recordTypes.cname, ttl, encodeName(target)));
    owner = target;
  }
  for (const text of zone[owner] ?? []) {
    const ipv4 = parseIpv4(text);
    if (ipv4 !== undefined && type === recordTypes.a) records.push(record(owner, recordTypes.a, ttl, ipv4Bytes(ipv4)));
    if (ipv4 === undefined && !isName(text) && type === recordTypes.aaaa) {
      records.push(record(owner, recordTypes.aaaa, ttl, ipv6Bytes(text)));
    }
    if (type === recordTypes.https) records.push(record(owner, recordTypes.https, ttl, Buffer.from([0, 1, 0])));
  }
  const fits = transport === "tcp" || records.reduce((sum, { length }) => sum + length, 0) < 480;
  const header = Buffer.alloc(12);
  header.writeUInt16BE(message.readUInt16BE(0), 0);
  header.writeUInt16BE(0x8180 | (fits ? 0 : 0x0200) | (zone[owner] === undefined ? 3 : 0), 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(fits ? records.length : 0, 6);
  return Buffer.concat([header, question, ...(fits ? records : [])]);
}

function isName(text: string): boolean {
  return parseIpv4(text) === undefined && !text.includes(":");
}

function record(name: string, type: number, ttl: number, data: Buffer): Buffer {
  const fields = Buffer.alloc(10);
  fields.writeUInt16BE(type, 0);
  fields.writeUInt16BE(1, 2);
  fields.writeUInt32BE(ttl, 4);
  fields.writeUInt16BE(data.length, 8);
  return Buffer.concat([encodeName(name), fields, data]);
}

export function encodeName(name: string): Buffer {
  return Buffer.concat([
    ...name.split(".").map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label, "latin1")])),
    Buffer.from([0]),
  ]);
}

/** A query for `name` as a guest's resolver sends it. */
export function query(name: string, type: number = recordTypes.a, id = 0x1234): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt16BE(id, 0);
  header.writeUInt16BE(0x0100, 2);
  header.writeUInt16BE(1, 4);
  return Buffer.concat([header, encodeName(name), Buffer.from([0, type, 0, 1])]);
}

function ipv6Bytes(text: string): Buffer {
  const [head = "", tail = ""] = text.split("::");
  const groups = (part: string): number[] =>
    part === "" ? [] : part.split(":").map((group) => Number.parseInt(group, 16));
  const [first, last] = [groups(head), groups(tail)];
  const all = [...first, ...Array.from({ length: 8 - first.length - last.length }, () => 0), ...last];
  const bytes = Buffer.alloc(16);
  for (const [index, group] of all.entries()) bytes.writeUInt16BE(group, index * 2);
  return bytes;
}
