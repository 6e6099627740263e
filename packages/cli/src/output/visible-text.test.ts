import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import type { AgentEvent, AttachedAgent, SandboxInfo } from "@opensandbox/sdk";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import * as fc from "fast-check";
import { type PartialClient, runForTest, sink } from "#testing/test-host.ts";
import { startProgress } from "./progress.ts";
import { visibleJson, visibleLine, visibleText } from "./visible-text.ts";

const id = "sb-1a2b3c4d";

/** Clipboard, window title, cleared screen, answerback, device control, 8-bit CSI, overwriting and reordered text. */
const worst = [
  "\u001B]52;c;cm0gLXJmIH4K\u0007",
  "\u001B]0;root@host\u0007",
  "\u001B[2J\u001B[H\u001B[31;8mhidden",
  "\u0005\u001B[c\u001B[6n",
  "\u001BP$q\u001B\\",
  "\u009B2J\u009D0;title\u009C",
  "real\r\bfake\u007F\0",
  "\u202Egnp.exe\u2066\u200F\u2028",
].join("");

/** The text contains nothing that a terminal acts upon, except tabs and newlines. */
function assertInert(text: string): void {
  const found = text.match(/[^\P{Cc}\t\n]|[\u061C\u200E\u200F\u2028-\u202E\u2066-\u2069]/u);
  assert.equal(found, null, JSON.stringify(text));
}

test("control characters become visible, and everything else stays", () => {
  assert.equal(visibleText("a\tb\nüñ🙂\u001B[31m\r\u009B\u202E"), "a\tb\nüñ🙂\\x1b[31m\\r\\x9b\\u{202e}");
  assert.equal(visibleLine("a\tb\nc"), "a\\tb\\nc");
  assert.equal(visibleJson({ a: "\u001B\u009B\u202E" }), String.raw`{"a":"\u001b\u009b\u202e"}`);
});

test("no text reaches a terminal as a control sequence, and JSON keeps its value", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (text) => {
      assertInert(visibleText(text));
      assert.doesNotMatch(visibleLine(text), /[\n\t]/);
      assertInert(visibleJson(text));
      assert.equal(JSON.parse(visibleJson(text)), text);
    }),
  );
});

const sandbox: SandboxInfo = {
  ...{ id, status: "running", alias: worst, image: worst, vcpus: 1, memoryMib: 1024, diskMib: 20_480 },
  ...{ idleTimeoutSeconds: 0, metadata: { [worst]: worst }, createdAt: "2026-01-01T00:00:00.000Z", reason: worst },
};
const events: readonly AgentEvent[] = [
  { type: "assistant", message: { content: [{ type: "text", text: worst }] } },
  { type: "assistant", message: { content: [{ type: "tool_use", name: worst, input: { [worst]: worst } }] } },
  { type: "user", message: { content: [{ type: "tool_result", content: worst, is_error: true }] } },
  { type: "system", subtype: "api_retry", error: worst },
  { type: "error", message: worst },
  { type: "log", text: worst },
];

const client: PartialClient = {
  sandboxes: {
    console: async () => `[    0.000000] Linux\r\n${worst}\r\n`,
    list: async () => [sandbox],
    get: async () => sandbox,
    wake: async () => ({ ...sandbox, restoredFrom: "disk", restoredBecause: worst }),
    kill: async () => {
      throw new SandboxError("unavailable", worst);
    },
  },
  images: {
    build: async (_name, _recipe, { onLog } = {}) => {
      onLog?.(worst);
      throw new SandboxError("unavailable", worst);
    },
  },
  exec: {
    stream: async () => {
      throw new SandboxError("not_found", worst, { resource: "file", id: worst });
    },
  },
  agents: {
    attach: async () => {
      const stream = new PassThrough({ objectMode: true });
      for (const event of events) stream.write(event);
      stream.end();
      return { events: stream as AsyncIterable<AgentEvent>, exitCode: Promise.resolve(0) } as AttachedAgent;
    },
  },
};

for (const line of [
  `logs ${id}`,
  "ls",
  `get ${id}`,
  `wake ${id}`,
  `kill ${id}`,
  "snapshot create tools -",
  `exec ${id} -- ${worst}`,
  `agent attach ${id} 5f0d3e5d`,
  `no-such-command ${worst}`,
]) {
  const [command = ""] = line.split(` ${id}`);
  for (const json of [false, true]) {
    test(`osb ${command.split(" ")[0]} ${json ? "--json " : ""}writes no control sequence of a hostile sandbox`, async () => {
      const argv = line.split(" ");
      const stdin = '{"steps": []}';
      const { stdout, stderr } = await runForTest(json ? ["--json", ...argv] : argv, { client, stdin });
      assertInert(stdout);
      assertInert(stderr);
      assert.ok(line.startsWith("no-such") || /\\(x1b|u001b)/.test(stdout + stderr), "the text itself is shown");
    });
  }
}

test("a console's lines stay lines, and a table's row stays one line", async () => {
  const console = await runForTest(["logs", id], { client });
  assert.equal(console.stdout.split("\n")[0], "[    0.000000] Linux");
  const forged = { ...sandbox, alias: "x\nsb-00000000  admin" };
  const listed = await runForTest(["ls"], { client: { sandboxes: { list: async () => [forged] } } });
  assert.equal(listed.stdout.trimEnd().split("\n").length, 2);
});

test("progress draws nothing but its own control sequences", (t) => {
  t.mock.timers.enable({ apis: ["setInterval", "Date"] });
  for (const isTTY of [false, true]) {
    const { stream, text } = sink();
    {
      using progress = startProgress(Object.assign(stream, { isTTY, columns: 400 }), Date.now);
      progress.report(worst);
      t.mock.timers.tick(1000);
      progress.report(worst);
    }
    assert.match(text(), /\\x1b/);
    assertInert(text().replaceAll("\r\u001B[2K", ""));
  }
});
