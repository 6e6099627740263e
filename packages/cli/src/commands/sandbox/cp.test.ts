import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { runForTest, type TestRun } from "#testing/test-host.ts";

const wiped = "\r\u001B[2K";

/** Copies 3 MB that take some seconds. */
async function copySlowly(t: TestContext, options: { terminal: boolean; fails?: boolean }): Promise<TestRun> {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const write = async (_id: string, _path: string, content: unknown): Promise<void> => {
    t.mock.timers.tick(1000);
    for await (const _chunk of content as AsyncIterable<Uint8Array>) t.mock.timers.tick(1000);
    if (options.fails === true) throw new SandboxError("unavailable", "the server has gone");
  };
  const { terminal } = options;
  return await runForTest(["cp", "-", "sb-1a2b3c4d:large"], {
    client: { files: { write } },
    stdin: "x".repeat(3_000_000),
    terminal,
  });
}

test("on a terminal cp draws what it has copied on one line, and wipes it in the end", async (t) => {
  const { code, stdout, stderr } = await copySlowly(t, { terminal: true });
  const drawn = stderr.split(wiped);
  assert.deepEqual([code, stdout], [0, "copied 1 file, 3.0 MB\n"]);
  // More often where the host is so slow that seconds pass.
  assert.deepEqual([drawn.shift(), drawn.pop()], ["", ""]);
  assert.ok(drawn.length >= 2 && drawn.every((line) => /^copying: 0 files, [\w. ]+ \(\d+ s\)$/.test(line)), stderr);
  assert.match(stderr, /copying: 0 files, 3\.0 MB/);
});

test("a cp that fails wipes it before it says why", async (t) => {
  const { code, stdout, stderr } = await copySlowly(t, { terminal: true, fails: true });
  assert.deepEqual([code, stdout], [1, ""]);
  assert.ok(stderr.endsWith(` s)${wiped}osb: the server has gone\n`), stderr);
});

test("elsewhere cp tells in lines, without a control character", async (t) => {
  const { code, stdout, stderr } = await copySlowly(t, { terminal: false });
  assert.deepEqual([code, stdout], [0, "copied 1 file, 3.0 MB\n"]);
  assert.match(stderr, /^(osb: copying: 0 files, [\w. ]+ \(\d+ s\)\n)+$/);
});
