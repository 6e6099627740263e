import { request as startRequest, type IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Use } from "#lifecycle/activity.ts";
import { broken, type Forward, tooLate } from "./forward-request.ts";
import { answerHeaders } from "./preview-headers.ts";

/**
 * Forwards an upgrade to a server in a sandbox. When the server agrees, the two connections are joined and their bytes
 * pass through; otherwise its answer is sent back and the connection closes. Rejects when no answer has begun.
 */
export async function forwardUpgrade({
  request,
  socket,
  head,
  stream,
  use: held,
  path,
  headers,
  timeoutMs,
}: Forward & { readonly socket: Duplex; readonly head: Buffer }): Promise<void> {
  using use = held;
  const { promise, resolve, reject } = Promise.withResolvers<Upgraded>();
  const upstream = startRequest({
    method: request.method,
    path,
    headers: [...headers, "Connection", "Upgrade", "Upgrade", request.headers.upgrade ?? ""],
    setHost: false,
    createConnection: () => stream,
  });
  const timer = setTimeout(() => reject(tooLate(timeoutMs)), timeoutMs);
  upstream.once("upgrade", (answer, _socket, rest: Buffer) => resolve({ answer, rest }));
  upstream.once("response", (answer) => resolve({ answer }));
  upstream.on("error", (cause) => reject(broken(cause)));
  upstream.end();
  try {
    const { answer, rest } = await promise;
    clearTimeout(timer);
    const { host } = request.headers;
    if (rest === undefined) {
      socket.write(headOf(answer, [...answerHeaders(answer.rawHeaders, host), "Connection", "close"]));
      // The head has been sent, so a failure can only cut the connection.
      await pipeline(answer, socket).catch(() => socket.destroy());
      return;
    }
    const upgraded = ["Connection", "Upgrade", "Upgrade", answer.headers.upgrade ?? ""];
    socket.write(headOf(answer, [...answerHeaders(answer.rawHeaders, host), ...upgraded]));
    if (rest.length > 0) socket.write(rest);
    if (head.length > 0) stream.write(head);
    // An open connection keeps no sandbox awake; its traffic does.
    use[Symbol.dispose]();
    await joined(socket, stream, use);
  } finally {
    clearTimeout(timer);
    stream.destroy();
  }
}

interface Upgraded {
  readonly answer: IncomingMessage;
  /** The first bytes after the server agreed. Absent: it refused. */
  readonly rest?: Buffer;
}

function headOf({ statusCode, statusMessage }: IncomingMessage, headers: readonly string[]): string {
  const lines = Array.from({ length: headers.length / 2 }, (_, at) => `${headers[2 * at]}: ${headers[2 * at + 1]}\r\n`);
  return `HTTP/1.1 ${statusCode} ${statusMessage}\r\n${lines.join("")}\r\n`;
}

/** Settles when both sides have ended, or one has failed, which ends the other. */
async function joined(socket: Duplex, stream: Duplex, use: Use): Promise<void> {
  socket.on("data", () => use.touch());
  stream.on("data", () => use.touch());
  // Two pipelines and a TLS server together add more listeners than Node expects of a socket.
  socket.setMaxListeners(20);
  // Both peers see the close; there is nothing to report.
  await Promise.all([pipeline(socket, stream), pipeline(stream, socket)]).catch(() => undefined);
  socket.destroy();
}
