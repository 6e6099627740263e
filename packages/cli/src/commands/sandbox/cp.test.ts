import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { runForTest, type TestRun } from "#testing/test-host.ts";

const cleared = "\r\u001B[2K";

/** Copies 3 MB within some simulated seconds. */
async function copySlowly(t: TestContext, options: { terminal: boolean; fails?: boolean }): Promise<TestRun> {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const write = async (_id: string, _path: string, content: unknown): Promise<void> => {
    t.mock.timers.tick(1000);
    for await (const _chunk of content as AsyncIterable<Uint8Array>) t.mock.timers.tick(1000);
    if (options.fails === true) throw new SandboxError("unavailable", "the server is gone");
  };
  const { terminal } = options;
  return await runForTest(["cp", "-", "sb-1a2b3c4d:large"], {
    client: { files: { write } },
    stdin: "x".repeat(3_000_000),
    terminal,
  });
}

test("on a terminal, cp draws its progress on one line and removes the line at the end", async (t) => {
  const { code, stdout, stderr } = await copySlowly(t, { terminal: true });
  const drawn = stderr.split(cleared);
  assert.deepEqual([code, stdout], [0, "copied 1 file, 3.0 MB\n"]);
  // A slow host adds real seconds, hence more lines.
  assert.deepEqual([drawn.shift(), drawn.pop()], ["", ""]);
  assert.ok(drawn.length >= 2 && drawn.every((line) => /^copying: 0 files, [\w. ]+ \(\d+ s\)$/.test(line)), stderr);
  assert.match(stderr, /copying: 0 files, 3\.0 MB/);
});

test("a failing cp removes its progress before it prints the error", async (t) => {
  const { code, stdout, stderr } = await copySlowly(t, { terminal: true, fails: true });
  assert.deepEqual([code, stdout], [1, ""]);
  assert.ok(stderr.endsWith(` s)${cleared}osb: the server is gone\n`), stderr);
});

test("outside of a terminal, cp prints lines without control characters", async (t) => {
  const { code, stdout, stderr } = await copySlowly(t, { terminal: false });
  assert.deepEqual([code, stdout], [0, "copied 1 file, 3.0 MB\n"]);
  assert.match(stderr, /^(osb: copying: 0 files, [\w. ]+ \(\d+ s\)\n)+$/);
});
