import { randomInt } from "node:crypto";
import { closeSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { isIP, Socket } from "node:net";
import { openConnection, readingFrom, sendBytes } from "#host/kernel/sockets.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { answersQuestion, encodeQuery, type Question } from "./dns-message.ts";
import { MessageReader, withLength } from "./dns-stream.ts";

// Each server has some seconds to answer, and all servers are asked twice, as by libc's resolver.
const serverTimeoutMs = 2000;
const rounds = 2;

/** How long the content of /etc/resolv.conf is used before it is read again. */
const rereadMs = 2000;

/**
 * Asks a name server of this host. @throws `unavailable` when no server answers
 */
export type AskResolvers = (question: Question, transport: "udp" | "tcp", signal: AbortSignal) => Promise<Buffer>;

/** A socket to the next server, or the reason why there is none. */
export type OpenedResolver =
  | { readonly descriptor: number }
  /** The next attempt may reach another server. */
  | { readonly unreachable: true }
  /** All attempts at all servers are used up; the text is the error message. */
  | { readonly exhausted: string };

/** Opens a socket that is connected to a name server; attempts count from 0, over all servers again and again. */
export type OpenResolver = (transport: "udp" | "tcp", attempt: number) => Promise<OpenedResolver>;

/** Opens sockets to the name servers that this host uses itself, also those on its own loopback. */
export function hostResolvers(file = "/etc/resolv.conf"): OpenResolver {
  let known: { readonly servers: Promise<readonly string[]>; readonly until: number } | undefined;
  return async (transport, attempt) => {
    const now = performance.now();
    if (known === undefined || known.until < now) known = { servers: readServers(file), until: now + rereadMs };
    const servers = await known.servers;
    const server = servers[attempt % servers.length];
    if (server === undefined || attempt >= rounds * servers.length) {
      return { exhausted: `no name server of this host answers (${servers.join(", ")})` };
    }
    try {
      return { descriptor: openConnection(transport, undefined, { address: server, port: 53 }) };
    } catch {
      return { unreachable: true };
    }
  };
}

/** Asks one server after the other, over sockets that `open` opens. */
export function askOver(open: OpenResolver): AskResolvers {
  return async (question, transport, signal) => {
    for (let attempt = 0; ; attempt += 1) {
      const opened = await open(transport, attempt);
      if ("exhausted" in opened) throw new SandboxError("unavailable", opened.exhausted);
      if ("descriptor" in opened) {
        const until = AbortSignal.any([signal, AbortSignal.timeout(serverTimeoutMs)]);
        const exchange = transport === "udp" ? askByDatagram : askByStream;
        const answer = await exchange(opened.descriptor, question, until);
        if (answer !== undefined) return answer;
      }
      signal.throwIfAborted();
    }
  };
}

/** The servers of a resolv.conf, in order. Without any, libc uses a server on this host, and so does this. */
export async function readServers(file: string): Promise<readonly string[]> {
  const text = await readFile(file, "utf8").catch(() => "");
  const servers = [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map(([, server]) => server ?? "");
  // A link-local one has its interface behind a percent sign.
  const usable = servers.filter((server) => isIP(server.replace(/%.*$/, "")) !== 0);
  return usable.length > 0 ? usable : ["127.0.0.1"];
}

/** Undefined when the server does not answer. The socket is connected, so the kernel takes answers of this server only. */
async function askByDatagram(descriptor: number, question: Question, signal: AbortSignal): Promise<Buffer | undefined> {
  const id = randomInt(0x1_0000);
  let datagrams: Socket | undefined;
  try {
    sendBytes(descriptor, encodeQuery(question, id));
    datagrams = readingFrom(descriptor);
  } catch {
    return undefined;
  } finally {
    closeSync(descriptor);
  }
  return await firstAnswer(datagrams, signal, (datagram) => [datagram].filter(isAnswer(question, id)));
}

async function askByStream(descriptor: number, question: Question, signal: AbortSignal): Promise<Buffer | undefined> {
  const id = randomInt(0x1_0000);
  const socket = new Socket({ fd: descriptor });
  const reader = new MessageReader();
  const answer = firstAnswer(socket, signal, (chunk) => reader.push(chunk).filter(isAnswer(question, id)));
  socket.write(withLength(encodeQuery(question, id)));
  return await answer;
}

function isAnswer(question: Question, id: number): (message: Buffer) => boolean {
  return (message) => answersQuestion(message, question, id);
}

/** Ends with the socket, or with `signal`. */
async function firstAnswer(
  socket: Socket,
  signal: AbortSignal,
  answersIn: (bytes: Buffer) => readonly Buffer[],
): Promise<Buffer | undefined> {
  const { promise, resolve } = Promise.withResolvers<Buffer | undefined>();
  const giveUp = (): void => resolve(undefined);
  signal.addEventListener("abort", giveUp, { once: true });
  socket.on("error", giveUp);
  socket.on("close", giveUp);
  socket.on("data", (bytes: Buffer) => {
    const [answer] = answersIn(bytes);
    if (answer !== undefined) resolve(answer);
  });
  try {
    return signal.aborted ? undefined : await promise;
  } finally {
    signal.removeEventListener("abort", giveUp);
    socket.destroy();
  }
}
