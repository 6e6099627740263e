import { randomInt } from "node:crypto";
import { createSocket } from "node:dgram";
import { readFile } from "node:fs/promises";
import { connect, isIP, isIPv6 } from "node:net";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { answersQuestion, encodeQuery, type Question } from "./dns-message.ts";
import { MessageReader, withLength } from "./dns-stream.ts";

// What libc's resolver does too: some seconds for each server, and all of them twice.
const serverTimeoutMs = 2000;
const rounds = 2;

/** How long what /etc/resolv.conf says is taken for granted. */
const rereadMs = 2000;

/** Asks the name servers that this host uses itself, also those on its own loopback. */
export type AskResolvers = (question: Question, transport: "udp" | "tcp", signal: AbortSignal) => Promise<Buffer>;

/** @throws (when it asks) `unavailable` when no server answers */
export function hostResolvers(file = "/etc/resolv.conf"): AskResolvers {
  let known: { readonly servers: Promise<readonly string[]>; readonly until: number } | undefined;
  return async (question, transport, signal) => {
    const now = performance.now();
    if (known === undefined || known.until < now) known = { servers: readServers(file), until: now + rereadMs };
    const servers = await known.servers;
    for (let round = 0; round < rounds; round += 1) {
      for (const server of servers) {
        const until = AbortSignal.any([signal, AbortSignal.timeout(serverTimeoutMs)]);
        const answer = await (transport === "udp" ? askByDatagram : askByStream)(server, question, until);
        if (answer !== undefined) return answer;
        signal.throwIfAborted();
      }
    }
    throw new SandboxError("unavailable", `no name server of this host answers (${servers.join(", ")})`);
  };
}

/** The servers of a resolv.conf, in order; without any, the one on this host, as libc has it. */
export async function readServers(file: string): Promise<readonly string[]> {
  const text = await readFile(file, "utf8").catch(() => "");
  const servers = [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map(([, server]) => server ?? "");
  // A link-local one has its interface behind a percent sign.
  const usable = servers.filter((server) => isIP(server.replace(/%.*$/, "")) !== 0);
  return usable.length > 0 ? usable : ["127.0.0.1"];
}

/** Undefined when the server does not answer. */
async function askByDatagram(server: string, question: Question, signal: AbortSignal): Promise<Buffer | undefined> {
  const id = randomInt(0x1_0000);
  const socket = createSocket(isIPv6(server.replace(/%.*$/, "")) ? "udp6" : "udp4");
  const { promise, resolve } = Promise.withResolvers<Buffer | undefined>();
  const giveUp = (): void => resolve(undefined);
  const giveUpOn = (error: Error | null): void => {
    if (error !== null) giveUp();
  };
  let closed = false;
  signal.addEventListener("abort", giveUp, { once: true });
  socket.on("error", giveUp);
  // Connected, so that the kernel takes answers of this server only. Node calls back with an error, or after the socket
  // was closed, too.
  socket.connect(53, server, (error?: Error) => {
    if (error !== undefined) giveUp();
    else if (!closed) socket.send(encodeQuery(question, id), giveUpOn);
  });
  socket.on("message", (message) => {
    if (answersQuestion(message, question, id)) resolve(message);
  });
  try {
    return signal.aborted ? undefined : await promise;
  } finally {
    signal.removeEventListener("abort", giveUp);
    closed = true;
    socket.close();
  }
}

async function askByStream(server: string, question: Question, signal: AbortSignal): Promise<Buffer | undefined> {
  const id = randomInt(0x1_0000);
  const socket = connect({ host: server, port: 53 });
  const { promise, resolve } = Promise.withResolvers<Buffer | undefined>();
  const giveUp = (): void => resolve(undefined);
  signal.addEventListener("abort", giveUp, { once: true });
  socket.on("error", giveUp);
  socket.on("close", giveUp);
  const reader = new MessageReader();
  socket.on("data", (chunk: Buffer) => {
    for (const message of reader.push(chunk)) if (answersQuestion(message, question, id)) resolve(message);
  });
  socket.write(withLength(encodeQuery(question, id)));
  try {
    return signal.aborted ? undefined : await promise;
  } finally {
    signal.removeEventListener("abort", giveUp);
    socket.destroy();
  }
}
