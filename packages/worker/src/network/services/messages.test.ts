import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { anything, assert as holds, constantFrom, integer, property, record, string } from "fast-check";
import { type FromServices, parseFromServices } from "./messages.ts";

function parsed(message: unknown): FromServices | undefined {
  return parseFromServices(JSON.stringify(message));
}

suite("a message of the guest-facing services", () => {
  for (const message of [
    { kind: "ready" },
    { kind: "pong" },
    { kind: "applied", network: 1, change: 2 },
    { kind: "ended", network: 1 },
    { kind: "defect", network: 1, text: "Error: x\n    at y" },
    { kind: "refused", network: 1, refusal: { protocol: "dns", reason: "because", host: "a.example" } },
    { kind: "request", id: 7, network: 1, request: { ask: "resolver", transport: "udp", attempt: 0 } },
    { kind: "request", id: 7, network: 1, request: { ask: "connect", name: "a", address: "203.0.113.10", port: 80 } },
    { kind: "request", id: 7, network: 1, request: { ask: "pin", name: "a", addresses: [1], ttlSeconds: 60 } },
    { kind: "request", id: 7, network: 1, request: { ask: "metadata", endpoint: "GET /v1/status", body: { a: 1 } } },
  ]) {
    test(`is read: ${JSON.stringify(message)}`, () => assert.deepEqual(parsed(message), message));
  }

  for (const message of [
    {},
    { kind: "other", network: 1 },
    { kind: "applied", network: -1, change: 2 },
    { kind: "applied", network: 1 },
    { kind: "refused", network: 1, refusal: { protocol: "tcp", reason: "forged" } },
    { kind: "refused", network: 1, refusal: { protocol: "dns", reason: "\x1b[2J" } },
    { kind: "refused", network: 1, refusal: { protocol: "dns", reason: "x".repeat(300) } },
    { kind: "request", id: 1.5, network: 1, request: { ask: "resolver", transport: "udp", attempt: 0 } },
    { kind: "request", id: 1, network: 1, request: { ask: "connect", address: "203.0.113.10", port: 70_000 } },
    { kind: "request", id: 1, network: 1, request: { ask: "pin", name: "a", addresses: [-1], ttlSeconds: 60 } },
    { kind: "request", id: 1, network: 1, request: { ask: "pin", name: "a", addresses: {}, ttlSeconds: 60 } },
    { kind: "request", id: 1, network: 1, request: { ask: "metadata", endpoint: "DELETE /" } },
    null,
    [],
  ]) {
    test(`is refused: ${JSON.stringify(message).slice(0, 100)}`, () => assert.equal(parsed(message), undefined));
  }

  test("is read from any text without an error", () => {
    holds(
      property(string(), anything(), (text, value) => {
        parseFromServices(text);
        parsed(value ?? null);
      }),
      { numRuns: 1000 },
    );
    const kind = constantFrom("request", "refused", "applied", "defect");
    const ask = constantFrom("resolver", "connect", "pin", "metadata");
    const request = record({ ask, name: anything(), address: anything(), port: anything(), addresses: anything() });
    holds(
      property(record({ kind, network: integer(), id: anything(), request, refusal: anything() }), (message) => {
        parsed(message);
      }),
      { numRuns: 1000 },
    );
  });
});
