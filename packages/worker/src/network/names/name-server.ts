import { createSocket, type RemoteInfo, type Socket as DatagramSocket } from "node:dgram";
import { createServer, type Socket } from "node:net";
import { openTcpListener, openUdpSocket } from "#host/sockets.ts";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { inner } from "../address-plan.ts";
import type { NetworkRecord } from "../network-record.ts";
import { type CompiledPolicy, isPublicIpv4 } from "../policy.ts";
import {
  encodeRefusal,
  isTruncated,
  parseQuestion,
  parseRecords,
  type Question,
  recordTypes,
  type ResourceRecord,
  responseCodes,
} from "./dns-message.ts";
import { MessageReader, withLength } from "./dns-stream.ts";
import type { AskResolvers } from "./host-resolvers.ts";
import { maxTtlSeconds, type PinnedNames } from "./pinned-names.ts";

export interface NameServerOptions {
  /** The namespace it serves; whoever asks there is its guest. */
  readonly namespace: string;
  readonly ask: AskResolvers;
  readonly pinned: PinnedNames;
  readonly record: NetworkRecord;
  policy(): CompiledPolicy;
}

// A guest that asks more than this at once is not answered until something of it is.
const maxConcurrent = 64;
const maxConnections = 16;
const idleConnectionMs = 10_000;

/**
 * The guest's name server. It asks whom the host asks, so that it works wherever the host itself has names. A name that
 * is not allowed does not exist, an answer with an address that no guest may reach is a trap and not passed on, and
 * where names decide what is let out, the address is let out before the answer is sent.
 */
export function serveNames(options: NameServerOptions): Disposable {
  const ended = new AbortController();
  const at = { address: inner.nameServer, port: 53 };
  const answer = limitedTo(maxConcurrent, (question: Question, transport: "udp" | "tcp") =>
    answerOf(question, transport, options, ended.signal),
  );
  const datagrams = createSocket("udp4");
  // A guest's packets cannot make an error of ours.
  datagrams.on("error", () => undefined);
  datagrams.on("message", (message, from) => void answerDatagram(datagrams, message, from, answer));
  datagrams.bind({ fd: openUdpSocket(options.namespace, at) });
  const connections = new Set<Socket>();
  const streams = createServer((socket) => {
    if (connections.size >= maxConnections) return void socket.resetAndDestroy();
    connections.add(socket);
    socket.once("close", () => connections.delete(socket));
    serveStream(socket, answer);
  });
  streams.listen({ fd: openTcpListener(options.namespace, at) });
  return {
    [Symbol.dispose]: () => {
      ended.abort();
      datagrams.close();
      streams.close();
      for (const socket of connections) socket.destroy();
    },
  };
}

type Answer = (question: Question, transport: "udp" | "tcp") => Promise<Buffer | undefined>;

/** Undefined, which is silence, beyond the limit. */
function limitedTo(most: number, answer: (...[question, transport]: Parameters<Answer>) => Promise<Buffer>): Answer {
  let now = 0;
  return async (question, transport) => {
    if (now >= most) return undefined;
    now += 1;
    try {
      return await answer(question, transport);
    } finally {
      now -= 1;
    }
  };
}

async function answerDatagram(
  socket: DatagramSocket,
  message: Buffer,
  from: RemoteInfo,
  answer: Answer,
): Promise<void> {
  const question = parseQuestion(message);
  if (question === undefined) return;
  const reply = await answer(question, "udp");
  if (reply === undefined) return;
  const fitting =
    reply.length <= question.datagramBytes
      ? reply
      : encodeRefusal(question, responseCodes.noError, { truncated: true });
  // Closed meanwhile, or the guest is gone: nobody waits for it.
  socket.send(fitting, from.port, from.address, () => undefined);
}

function serveStream(socket: Socket, answer: Answer): void {
  const reader = new MessageReader();
  socket.setTimeout(idleConnectionMs, () => socket.destroy());
  socket.on("error", () => socket.destroy());
  let last = Promise.resolve();
  socket.on("data", (chunk: Buffer) => {
    // One after the other, and no more is read meanwhile.
    socket.pause();
    last = last.then(() => answerAll(socket, reader.push(chunk), answer)).then(() => void socket.resume());
  });
}

async function answerAll(socket: Socket, messages: readonly Buffer[], answer: Answer): Promise<void> {
  for (const message of messages) {
    const question = parseQuestion(message);
    const reply = question === undefined ? undefined : await answer(question, "tcp");
    if (socket.destroyed) return;
    if (reply === undefined) return void socket.destroy();
    socket.write(withLength(reply));
  }
}

async function answerOf(
  question: Question,
  transport: "udp" | "tcp",
  options: NameServerOptions,
  signal: AbortSignal,
): Promise<Buffer> {
  const refusal = refusalOf(question, options.policy());
  if (refusal !== undefined) {
    if (refusal.reason !== undefined) record(options, question, refusal.reason);
    return encodeRefusal(question, refusal.code);
  }
  let message: Buffer;
  try {
    message = await options.ask(question, transport, signal);
  } catch (error) {
    record(options, question, isSandboxError(error) ? error.message : "the name servers of the host failed");
    return encodeRefusal(question, responseCodes.serverFailure);
  }
  return checkedAnswer(question, message, options);
}

const internetClass = 1;
const anyType = 255;
/** Transfers of zones, which are no questions for an address. */
const transferTypes = [251, 252];

/** Why a question is not asked further, if it is not. Pure. */
export function refusalOf(
  question: Question,
  policy: CompiledPolicy,
): { readonly code: number; readonly reason?: string } | undefined {
  const { name, type } = question;
  if (!policy.policy.enabled) return { code: responseCodes.nameError, reason: "the network is off" };
  if (question.class !== internetClass || type === anyType || transferTypes.includes(type)) {
    return { code: responseCodes.notImplemented };
  }
  if (!policy.namesDecide) return undefined;
  if (name === undefined || !policy.allowsName(name)) {
    return { code: responseCodes.nameError, reason: "the network policy does not allow this name" };
  }
  // They carry addresses that nothing is known of, and keys that would hide the name of a TLS connection.
  if (type === recordTypes.svcb || type === recordTypes.https) return { code: responseCodes.noError };
  return undefined;
}

/** The answer as the guest may have it; the addresses of names that decide are let out. */
function checkedAnswer(question: Question, message: Buffer, options: NameServerOptions): Buffer {
  const records = parseRecords(message);
  if (records === undefined) return encodeRefusal(question, responseCodes.serverFailure);
  const answers = records.filter(({ section }) => section === "answer");
  if (answers.some((answer) => !isPublicAnswer(answer))) {
    record(options, question, "the answer is a private address");
    return encodeRefusal(question, responseCodes.nameError);
  }
  const policy = options.policy();
  const { name } = question;
  const reply = Buffer.from(message);
  reply.writeUInt16BE(question.id, 0);
  if (!policy.namesDecide || policy.open || name === undefined || isTruncated(message)) return reply;
  const addresses = addressesFor(name, answers);
  if (addresses.length > 0) {
    const ttl = Math.min(...answers.map((answer) => answer.ttl));
    try {
      options.pinned.pin(name, addresses, ttl);
    } catch (error) {
      record(options, question, error instanceof Error ? error.message : String(error));
      return encodeRefusal(question, responseCodes.serverFailure);
    }
  }
  for (const { ttl, ttlAt, type } of records) {
    if (type !== recordTypes.opt && ttl > maxTtlSeconds) reply.writeUInt32BE(maxTtlSeconds, ttlAt);
  }
  return reply;
}

/** The addresses that an answer gives for `name`, through the names that it stands for. Pure. */
export function addressesFor(name: string, answers: readonly ResourceRecord[]): number[] {
  const names = new Set([name]);
  // In any order: a chain of n names is complete after n rounds at the latest.
  for (let before = 0; before < names.size;) {
    before = names.size;
    for (const { name: owner, target } of answers) {
      if (owner !== undefined && target !== undefined && names.has(owner)) names.add(target);
    }
  }
  return answers
    .filter((answer) => answer.type === recordTypes.a && answer.name !== undefined && names.has(answer.name))
    .map(({ data }) => data.readUInt32BE());
}

/** Also: an address record that is none. */
function isPublicAnswer({ type, data }: ResourceRecord): boolean {
  if (type === recordTypes.a) return data.length === 4 && isPublicIpv4(data.readUInt32BE());
  // Global unicast is 2000::/3; what embeds an IPv4 address (6to4, Teredo) is a way around the check above.
  if (type === recordTypes.aaaa) {
    return (
      data.length === 16 && data[0]! >> 5 === 1 && data.readUInt16BE() !== 0x2002 && data.readUInt32BE() !== 0x2001_0000
    );
  }
  return true;
}

function record({ record }: NameServerOptions, { name }: Question, reason: string): void {
  record.add({ protocol: "dns", host: name ?? "a name that is none", reason });
}
