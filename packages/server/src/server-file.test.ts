import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
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

test("a server is found while it runs, and only its own user can read the file", async (t) => {
  const directory = await directoryFor(t);
  const published = { url: await listen(t), pid: process.pid, apiKey: "key" };
  {
    await using _ = await publishServer(directory, published);
    assert.deepEqual(await findServer(directory), published);
    assert.equal((await stat(join(directory, "server.json"))).mode & 0o777, 0o600);
  }
  assert.equal(await findServer(directory), undefined);
});

test("the file of a killed server names no server", async (t) => {
  const directory = await directoryFor(t);
  const file = join(directory, "server.json");
  const url = await listen(t);
  await publishServer(directory, { url, pid: 2 ** 30 });
  assert.equal(await findServer(directory), undefined, "no process has this id");
  await publishServer(directory, { url: "http://127.0.0.1:1", pid: process.pid });
  assert.equal(await findServer(directory), undefined, "the process does not listen on this port");

  await publishServer(directory, { url, pid: process.pid });
  const written = JSON.parse(await readFile(file, "utf8")) as { startTicks: number };
  assert.ok(await findServer(directory));
  await writeFile(file, JSON.stringify({ ...written, startTicks: written.startTicks - 1 }));
  assert.equal(await findServer(directory), undefined, "a later process has this id");
  await writeFile(file, JSON.stringify({ ...written, startTicks: undefined }));
  assert.equal(await findServer(directory), undefined, "the file does not say which process wrote it");
  await writeFile(file, "{");
  assert.equal(await findServer(directory), undefined, "the file is not JSON");
});

test("a server that ends leaves the file of a later server", async (t) => {
  const directory = await directoryFor(t);
  const url = await listen(t);
  {
    await using _ = await publishServer(directory, { url, pid: process.ppid });
    await publishServer(directory, { url, pid: process.pid });
  }
  assert.deepEqual(await findServer(directory), { url, pid: process.pid });
});
