import { createSocket } from "node:dgram";
import { createServer, type Socket } from "node:net";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { Refusal } from "../network-record.ts";
import { type CompiledPolicy, isPublicIpv4 } from "../policy.ts";
import {
  encodeRefusal,
  isTruncated,
  maxQuestionBytes,
  parseQuestion,
  parseRecords,
  type Question,
  recordTypes,
  type ResourceRecord,
  responseCodes,
} from "./dns-message.ts";
import { MessageReader, MessageTooLong, withLength } from "./dns-stream.ts";
import type { AskResolvers } from "./host-resolvers.ts";
import { maxTtlSeconds } from "./pinned-names.ts";

/** Admits the addresses of allowed names. */
export interface Pins {
  /** Admits `addresses` as answers for `name`. @throws `quota_exceeded` when there are too many */
  pin(name: string, addresses: readonly number[], ttlSeconds: number): void | Promise<void>;
}

export interface NameServerOptions {
  /** Bound to {@link inner.nameServer} port 53 in the guest's namespace: only that guest can ask. The server owns both. */
  readonly sockets: { readonly datagrams: number; readonly streams: number };
  readonly ask: AskResolvers;
  readonly pinned: Pins;
  policy(): CompiledPolicy;
  refuse(refusal: Refusal): void;
  /** Reports an error that no guest should be able to cause. */
  readonly defect: (error: unknown) => void;
}

/** Questions of one guest that are being answered; above that there is no answer. */
const maxConcurrent = 64;
const maxConnections = 16;
const idleConnectionMs = 10_000;

/**
 * Questions a second of one guest, by datagrams and streams together: the kernel's limit
 * (`newRequestsPerSecond` in namespace-rules.ts) counts a stream once, however many questions it carries.
 */
const maxQuestionsPerSecond = 200;

/**
 * The guest's name server. It asks the resolvers of the host, so that it works wherever the host itself has names. A
 * name that is not allowed does not exist. An answer with an address that no guest may reach is a trap and is not passed
 * on. Where names decide, the server admits an address before it sends the answer. Worst case for one guest:
 * {@link maxQuestionsPerSecond} messages of {@link maxQuestionBytes}, {@link maxConcurrent} pending questions,
 * {@link maxConnections} streams.
 */
export function serveNames(options: NameServerOptions): Disposable {
  const ended = new AbortController();
  const answer = limitedTo(maxConcurrent, (question: Question, transport: "udp" | "tcp") =>
    answerOf(question, transport, options, ended.signal),
  );
  const rate = new RateLimit(maxQuestionsPerSecond);
  const datagrams = createSocket("udp4");
  // The kernel reports an earlier datagram's ICMP errors here: the guest is gone, or never listened.
  datagrams.on("error", () => undefined);
  datagrams.on("message", (message, from) => {
    if (!rate.take()) return;
    answerDatagram(message, answer)
      .then((reply) => {
        // The network was given back while the question was being resolved.
        if (reply === undefined || ended.signal.aborted) return;
        datagrams.send(reply, from.port, from.address, () => undefined);
      })
      .catch(options.defect);
  });
  datagrams.bind({ fd: options.sockets.datagrams });
  const connections = new Set<Socket>();
  const streams = createServer((socket) => {
    if (connections.size >= maxConnections) return void socket.resetAndDestroy();
    connections.add(socket);
    socket.once("close", () => connections.delete(socket));
    serveStream(socket, answer, rate, options.defect);
  });
  streams.on("error", options.defect);
  streams.listen({ fd: options.sockets.streams });
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

/** Returns undefined, so that no reply is sent, while `max` questions are being answered. */
function limitedTo(max: number, answer: (...[question, transport]: Parameters<Answer>) => Promise<Buffer>): Answer {
  let pending = 0;
  return async (question, transport) => {
    if (pending >= max) return undefined;
    pending += 1;
    try {
      return await answer(question, transport);
    } finally {
      pending -= 1;
    }
  };
}

/** A bucket of one second's tokens. */
class RateLimit {
  readonly #perSecond: number;
  #tokens: number;
  #filledAt = performance.now();

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
    this.#tokens = perSecond;
  }

  take(): boolean {
    const now = performance.now();
    this.#tokens = Math.min(this.#perSecond, this.#tokens + ((now - this.#filledAt) / 1000) * this.#perSecond);
    this.#filledAt = now;
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}

/** The reply to a datagram; undefined for silence. */
async function answerDatagram(message: Buffer, answer: Answer): Promise<Buffer | undefined> {
  const question = parseQuestion(message);
  if (question === undefined) return undefined;
  const reply = await answer(question, "udp");
  if (reply === undefined || reply.length <= question.datagramBytes) return reply;
  return encodeRefusal(question, responseCodes.noError, { truncated: true });
}

function serveStream(socket: Socket, answer: Answer, rate: RateLimit, defect: (error: unknown) => void): void {
  const reader = new MessageReader(maxQuestionBytes);
  socket.setTimeout(idleConnectionMs, () => socket.destroy());
  socket.on("error", () => socket.destroy());
  let last = Promise.resolve();
  socket.on("data", (chunk: Buffer) => {
    // Chunks are answered one after the other; the socket is not read meanwhile.
    socket.pause();
    last = last
      .then(() => answerAll(socket, reader.push(chunk), answer, rate))
      .then(() => void socket.resume())
      .catch((error: unknown) => {
        if (!(error instanceof MessageTooLong)) defect(error);
        socket.destroy();
      });
  });
}

async function answerAll(socket: Socket, messages: readonly Buffer[], answer: Answer, rate: RateLimit): Promise<void> {
  for (const message of messages) {
    const question = rate.take() ? parseQuestion(message) : undefined;
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
    if (refusal.reason !== undefined) refuse(options, question, refusal.reason);
    return encodeRefusal(question, refusal.code);
  }
  let message: Buffer;
  try {
    message = await options.ask(question, transport, signal);
  } catch (error) {
    refuse(options, question, isSandboxError(error) ? error.message : "the name servers of the host failed");
    return encodeRefusal(question, responseCodes.serverFailure);
  }
  return await checkedAnswer(question, message, options);
}

const internetClass = 1;
const anyType = 255;
/** The record types of zone transfers. */
const transferTypes = [251, 252];

/** The answer to a question that is not forwarded; undefined for one that is. Pure. */
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
  // Such records carry addresses that are not pinned, and keys that hide the name of a TLS connection.
  if (type === recordTypes.svcb || type === recordTypes.https) return { code: responseCodes.noError };
  return undefined;
}

/** The answer that the guest may receive. Where names decide, its addresses are admitted first. */
async function checkedAnswer(question: Question, message: Buffer, options: NameServerOptions): Promise<Buffer> {
  const records = parseRecords(message);
  if (records === undefined) return encodeRefusal(question, responseCodes.serverFailure);
  const answers = records.filter(({ section }) => section === "answer");
  if (answers.some((answer) => !isPublicAnswer(answer))) {
    refuse(options, question, "the answer is a private address");
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
      await options.pinned.pin(name, addresses, ttl);
    } catch (error) {
      refuse(options, question, error instanceof Error ? error.message : String(error));
      return encodeRefusal(question, responseCodes.serverFailure);
    }
  }
  for (const { ttl, ttlAt, type } of records) {
    if (type !== recordTypes.opt && ttl > maxTtlSeconds) reply.writeUInt32BE(maxTtlSeconds, ttlAt);
  }
  return reply;
}

/** The addresses that an answer gives for `name`, also through its aliases. Linear in the records. Pure. */
export function addressesFor(name: string, answers: readonly ResourceRecord[]): number[] {
  const targets = new Map<string, string[]>();
  for (const { name: owner, target } of answers) {
    if (owner === undefined || target === undefined) continue;
    const known = targets.get(owner);
    if (known === undefined) targets.set(owner, [target]);
    else known.push(target);
  }
  // A set can be extended while it is walked; records may come in any order.
  const names = new Set([name]);
  for (const owner of names) for (const target of targets.get(owner) ?? []) names.add(target);
  return answers
    .filter((answer) => answer.type === recordTypes.a && answer.name !== undefined && names.has(answer.name))
    .map(({ data }) => data.readUInt32BE());
}

/** False also for an address record of the wrong length. */
function isPublicAnswer({ type, data }: ResourceRecord): boolean {
  if (type === recordTypes.a) return data.length === 4 && isPublicIpv4(data.readUInt32BE());
  // Global unicast is 2000::/3; an address that embeds an IPv4 address (6to4, Teredo) would bypass the check above.
  if (type === recordTypes.aaaa) {
    return (
      data.length === 16 && data[0]! >> 5 === 1 && data.readUInt16BE() !== 0x2002 && data.readUInt32BE() !== 0x2001_0000
    );
  }
  return true;
}

function refuse(options: NameServerOptions, { name }: Question, reason: string): void {
  options.refuse({ protocol: "dns", host: name ?? "(not a host name)", reason });
}
