import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { findServer, publishServer } from "./server-file.ts";

const patienceMs = 30_000;

/** A process that listens on `port` (0: any) and prints the port, then one line for each connection. */
async function listener(t: TestContext, port: number) {
  const program = `const server = require("node:net").createServer((socket) => { console.log("connected"); socket.destroy(); });
server.listen(${port}, "127.0.0.1", () => console.log(server.address().port));`;
  const child = spawn(process.execPath, ["-e", program], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(async () => await kill(child));
  let printed = "";
  child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
  await once(child.stdout, "data", { signal: AbortSignal.timeout(patienceMs) });
  const pid = child.pid ?? assert.fail("the process did not start");
  return { child, pid, port: Number(printed.split("\n")[0]), printed: () => printed };
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit", { signal: AbortSignal.timeout(patienceMs) });
  child.kill("SIGKILL");
  await ended;
}

test("after kill -9 of a server, another process on its port receives neither a key nor a connection", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-server-file-"));
  t.after(() => rm(directory, { recursive: true }));
  const file = join(directory, "server.json");

  const server = await listener(t, 0);
  const url = `http://127.0.0.1:${server.port}`;
  await publishServer(directory, { url, pid: server.pid, apiKey: "secret" });
  assert.deepEqual(await findServer(directory), { url, pid: server.pid, apiKey: "secret" });
  const left = JSON.parse(await readFile(file, "utf8")) as object;
  await kill(server.child);

  const imposter = await listener(t, server.port);
  assert.equal(await findServer(directory), undefined, "the process that wrote the file is gone");
  await writeFile(file, JSON.stringify({ ...left, pid: imposter.pid }));
  assert.equal(await findServer(directory), undefined, "another process has its id");
  // The writer lives, and another process listens on the published port.
  await publishServer(directory, { url, pid: process.pid, apiKey: "secret" });
  assert.equal(await findServer(directory), undefined, "the process that wrote the file does not listen");
  assert.equal(imposter.printed(), `${server.port}\n`, "no connection reached the other process");
});
