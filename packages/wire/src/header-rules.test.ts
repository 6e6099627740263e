import assert from "node:assert/strict";
import { test } from "node:test";
import type { HeaderRules } from "./egress.ts";
import { headersFor, parseHeaderRules } from "./header-rules.ts";

test("a host gets the headers of its own rule before those of the names that it is below", () => {
  const rules = parseHeaderRules({
    "API.example.com": { "x-own": "1", "X-Team": "own" },
    "*.example.com": { "X-Team": "below", "x-below": "" },
    "*.b.example.com": { "x-team": "deeper" },
  });
  assert.deepEqual(headersFor(rules, "api.example.com"), [
    ["X-Team", "own"],
    ["x-below", ""],
    ["x-own", "1"],
  ]);
  assert.deepEqual(headersFor(rules, "a.b.example.com"), [
    ["x-team", "deeper"],
    ["x-below", ""],
  ]);
  for (const name of ["example.com", "badexample.com", "api.example.com.evil.example"]) {
    assert.deepEqual(headersFor(rules, name), [], name);
  }
});

const host = "api.example.com";
const many = (count: number, value: string): Record<string, string> =>
  Object.fromEntries(Array.from({ length: count }, (_, index) => [`x-${index}`, value]));

for (const [what, rules, message] of [
  ["a line end in a value", { [host]: { "x-a": "1\r\nHost: evil.example" } }, /the value of x-a must be visible ASCII/],
  ["a bare line feed", { [host]: { "x-a": "1\n2" } }, /must be visible ASCII/],
  ["a zero byte", { [host]: { "x-a": "1\0" } }, /must be visible ASCII/],
  ["a final line end", { [host]: { "x-a": "1\n" } }, /must be visible ASCII/],
  ["a blank at the end", { [host]: { "x-a": "1 " } }, /must be visible ASCII/],
  ["a value that is not ASCII", { [host]: { "x-a": "é" } }, /must be visible ASCII/],
  ["a value that is too long", { [host]: { "x-a": "v".repeat(4097) } }, /at most 4096 characters/],
  ["a line end in a name", { [host]: { "x-a: 1\r\nx-b": "2" } }, /is not the name of a header/],
  ["a name with a final line end", { [host]: { "x-a\n": "2" } }, /is not the name of a header/],
  ["a name with a blank", { [host]: { "transfer-encoding ": "chunked" } }, /is not the name of a header/],
  ["an empty name", { [host]: { "": "2" } }, /is not the name of a header/],
  ["a name that is too long", { [host]: { ["x".repeat(129)]: "2" } }, /at most 128 characters/],
  ["the host", { [host]: { Host: "evil.example" } }, /the header Host belongs to the connection/],
  ["the length", { [host]: { "Content-Length": "0" } }, /belongs to the connection/],
  ["the framing", { [host]: { "TRANSFER-ENCODING": "chunked" } }, /belongs to the connection/],
  ["the connection", { [host]: { connection: "x-a" } }, /belongs to the connection/],
  ["an upgrade", { [host]: { Upgrade: "h2c" } }, /belongs to the connection/],
  ["one header twice", { [host]: { "x-a": "1", "X-A": "2" } }, /has the header X-A twice/],
  ["one host twice", { [host]: {}, "API.EXAMPLE.COM": {} }, /a host is given twice/],
  ["a host with a port", { "api.example.com:8443": {} }, /is not a host/],
  ["an address", { "203.0.113.7": {} }, /is not a host/],
  ["all hosts of a top-level domain", { "*.com": {} }, /is not a host/],
  ["too many headers", { [host]: many(33, "") }, /at most 32 headers/],
  ["too many characters", { [host]: many(9, "v".repeat(4096)) }, /at most 32768 characters together/],
  [
    "too many hosts",
    Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`h${index}.example.com`, {}])),
    /at most 64 hosts/,
  ],
] as const satisfies readonly (readonly [string, HeaderRules, RegExp])[]) {
  test(`header rules with ${what} are refused`, () => {
    assert.throws(() => parseHeaderRules(rules), { code: "invalid_argument", message });
  });
}
