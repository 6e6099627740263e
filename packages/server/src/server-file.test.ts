import assert from "node:assert/strict";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { findServer, publishServer } from "./server-file.ts";

async function directoryFor(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-server-file-"));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

async function listen(t: TestContext): Promise<string> {
  const listener = createServer().listen(0, "127.0.0.1");
  t.after(() => listener.close());
  await new Promise((resolve) => listener.once("listening", resolve));
  return `http://127.0.0.1:${(listener.address() as { port: number }).port}`;
}

test("a server is found while it runs, by its own user alone", async (t) => {
  const directory = await directoryFor(t);
  const published = { url: await listen(t), pid: process.pid, apiKey: "key" };
  {
    await using _ = await publishServer(directory, published);
    assert.deepEqual(await findServer(directory), published);
    assert.equal((await stat(join(directory, "server.json"))).mode & 0o777, 0o600);
  }
  assert.equal(await findServer(directory), undefined);
});

test("what a killed server leaves is not found", async (t) => {
  const directory = await directoryFor(t);
  const url = await listen(t);
  await publishServer(directory, { url, pid: 2 ** 30 });
  assert.equal(await findServer(directory), undefined, "no such process");
  await publishServer(directory, { url: "http://127.0.0.1:1", pid: process.pid });
  assert.equal(await findServer(directory), undefined, "another process has its id");
  await writeFile(join(directory, "server.json"), "{");
  assert.equal(await findServer(directory), undefined, "no such file of ours");
});

test("a server that ends leaves the file of a later one", async (t) => {
  const directory = await directoryFor(t);
  const url = await listen(t);
  {
    await using _ = await publishServer(directory, { url, pid: process.ppid });
    await publishServer(directory, { url, pid: process.pid });
  }
  assert.deepEqual(await findServer(directory), { url, pid: process.pid });
});
