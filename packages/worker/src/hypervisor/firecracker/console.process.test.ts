import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { promisify } from "node:util";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { Console } from "./console.ts";

/** A console, and the end of its pipe that a guest's output comes from. */
async function connected(t: TestContext): Promise<{ console: Console; write: (text: string) => Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), "osb-console-"));
  t.after(() => rm(directory, { recursive: true }));
  const path = join(directory, "console.pipe");
  await promisify(execFile)("mkfifo", [path]);
  // As Firecracker opens it: for both directions, so that no reader is missed.
  const pipe = await open(path, "r+");
  t.after(() => pipe.close());
  const console = new Console(path);
  t.after(() => console[Symbol.dispose]());
  return { console, write: async (text) => void (await pipe.write(text)) };
}

test("a console keeps the last 64 KiB of what a guest writes", async (t) => {
  const { console, write } = await connected(t);
  for (let block = 0; block < 10; block += 1) {
    const text = `${block}`.repeat(16 * 1024);
    await write(text);
    await eventually(`block ${block} is read`, async () => console.read().endsWith(text));
  }
  assert.equal(console.read(), ["6", "7", "8", "9"].map((digit) => digit.repeat(16 * 1024)).join(""));
});

for (const line of ["System halted", "Power off not available: System halted instead", "Power down"]) {
  test(`a guest whose kernel says "${line}" has halted`, async (t) => {
    const { console, write } = await connected(t);
    await write(`[   18.799071] reboot: ${line}\r\n`);
    await within("the console reports the halt", console.halted, 30_000);
  });
}
