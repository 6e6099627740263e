// Plays the guest-facing services: requests what no policy allows, reports the replies as a defect, and then sends an
// invalid message.
import { createInterface } from "node:readline";
import type { FromServices, Request, ToServices } from "../services/messages.ts";

const requests: readonly Request[] = [
  { ask: "connect", name: "allowed.example", address: "10.99.0.1", port: 80 },
  { ask: "connect", name: "allowed.example", address: "169.254.169.254", port: 80 },
  { ask: "connect", name: "allowed.example", address: "203.0.113.99", port: 443 },
  { ask: "connect", name: "other.example", address: "203.0.113.10", port: 443 },
  { ask: "connect", address: "203.0.113.10", port: 443 },
  { ask: "connect", name: "allowed.example", address: "203.0.113.10", port: 22 },
  { ask: "connect", name: "allowed.example", address: "nonsense", port: 80 },
  { ask: "pin", name: "other.example", addresses: [0xcb00710a], ttlSeconds: 60 },
  { ask: "pin", name: "allowed.example", addresses: [0x0a630001], ttlSeconds: 60 },
];
const replies: string[] = [];

send({ kind: "ready" });
for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line) as ToServices;
  if (message.kind === "ping") send({ kind: "pong" });
  if (message.kind === "network") {
    send({ kind: "applied", network: message.network, change: message.change });
    for (const [id, request] of requests.entries()) send({ kind: "request", id, network: message.network, request });
    send({ kind: "request", id: 99, network: 99, request: requests[0]! });
  }
  if (message.kind !== "reply") continue;
  replies.push(`${message.id}: ${JSON.stringify(message.reply)}`);
  if (replies.length <= requests.length) continue;
  send({ kind: "defect", network: 1, text: replies.toSorted().join("\n") });
  process.stdout.write("nonsense\n");
}

function send(message: FromServices): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}
