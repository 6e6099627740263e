import assert from "node:assert/strict";
import { test } from "node:test";
import type { LogLine } from "@opensandbox/sdk";
import { type PartialClient, runForTest } from "../../testing/test-host.ts";

const at = "2030-01-01T00:00:00.000Z";
const lines: readonly LogLine[] = [
  { source: "console", line: "booted" },
  { source: "lifecycle", at, line: "ready" },
  { source: "exec_stdout", at, line: "one", session: { id: "0a1b2c3d", argv: ["sh"] } },
];

test("logs -f prints lines of every source as they come, and --sources selects without following", async () => {
  const asked: unknown[] = [];
  const client: PartialClient = {
    logs: {
      async *follow(_id, selection) {
        asked.push(selection);
        yield* lines;
      },
      async list(_id, selection) {
        asked.push(selection);
        return lines.slice(1, 2);
      },
    },
  };
  const followed = await runForTest(["logs", "-f", "sb-1a2b3c4d"], { client });
  assert.equal(followed.stdout, `console  booted\n${at}  lifecycle  ready\n${at}  exec_stdout  0a1b2c3d  one\n`);
  const selected = await runForTest(["logs", "sb-1a2b3c4d", "--sources", "lifecycle", "--tail", "5"], { client });
  assert.equal(selected.stdout, `${at}  lifecycle  ready\n`);
  assert.deepEqual(asked, [{}, { sources: ["lifecycle"], tail: 5 }]);
  const wrong = await runForTest(["logs", "sb-1a2b3c4d", "--sources", "nothing"], { client });
  assert.match(wrong.stderr, /"nothing" is unknown/);
});
