import assert from "node:assert/strict";
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { test, type TestContext } from "node:test";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";

const program = join(import.meta.dirname, "testing/build-process.ts");

async function imagesDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-images-"));
  t.after(() => rm(directory, { recursive: true }));
  return join(directory, "images");
}

function build(images: string, milliseconds: number): ChildProcessByStdio<null, Readable, null> {
  return spawn(process.execPath, ["--disable-warning=ExperimentalWarning", program, images, `${milliseconds}`], {
    stdio: ["ignore", "pipe", "inherit"],
  });
}

async function buildersOf(images: string): Promise<string[]> {
  return (await readFile(`${images}.builds`, "utf8")).trim().split("\n");
}

test("of processes that ask at the same time, one builds and all get the artifact", async (t) => {
  const images = await imagesDirectory(t);
  const said = await Promise.all([1, 2, 3].map(async () => await text(build(images, 500).stdout)));
  assert.equal((await buildersOf(images)).length, 1);
  assert.deepEqual(said.toSorted(), ["building\nwhole\n", "whole\n", "whole\n"]);
});

test("a killed build never leaves an artifact that looks complete, and the next build cleans up", async (t) => {
  const images = await imagesDirectory(t);
  const killed = build(images, 60_000);
  await eventOf(killed.stdout, "data");
  killed.kill("SIGKILL");
  await eventOf(killed, "exit");
  assert.deepEqual(
    (await readdir(images)).filter((name) => name.startsWith("thing-")),
    [],
  );
  assert.equal(await text(build(images, 0).stdout), "building\nwhole\n");
  const [finished = "", ...others] = (await readdir(images)).filter((name) => name !== "locks");
  assert.match(finished, /^thing-[0-9a-f]{24}$/);
  assert.deepEqual(others, []);
});
