import { SandboxError } from "../../errors.ts";
import type { Route } from "../../route.ts";

export const openPort: Route = {
  method: "GET",
  path: "/api/sandboxes/:id/ports/:port/connect",
  name: "openPort",
  summary: "Connect to a TCP port of a sandbox over a WebSocket",
  description:
    "A server on any address of the sandbox is reached, localhost included. Binary messages are the bytes of the " +
    "connection in both directions. The text message `end` from the client ends its direction. The WebSocket closes with " +
    "1000 when the server has ended the connection; after a failure a text message has the error as JSON, and it closes " +
    "with 1011. A hibernated sandbox is woken; an open connection without traffic does not keep it awake.",
  access: "key",
  status: 101,
};

/** The client's direction has ended. */
export const endOfInput = "end";

/** The port in a path. @throws `invalid_argument` */
export function parsePort(text: string): number {
  const port = Number(text);
  if (/^\d{1,5}$/.test(text) && port >= 1 && port <= 65_535) return port;
  throw new SandboxError("invalid_argument", "port must be between 1 and 65535");
}
