import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { firecrackerTransport } from "./agent-transport.ts";

const deadline = (): AbortSignal => AbortSignal.timeout(30_000);

/** A socket like that of a VM's vsock device. `onConnection` receives each connection with the line that it asked for. */
async function device(t: TestContext, onConnection: (socket: Socket, line: string) => void): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-vsock-"));
  t.after(() => rm(directory, { recursive: true }));
  const path = join(directory, "agent.sock");
  const server = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    socket.once("data", (chunk: Buffer) => onConnection(socket, chunk.toString()));
    t.after(() => socket.destroy());
  }).listen(path);
  t.after(() => server.close());
  await once(server, "listening", { signal: deadline() });
  return path;
}

async function firstRead(socket: Socket): Promise<string> {
  const data = once(socket, "data", { signal: deadline() });
  socket.resume();
  return String((await data)[0]);
}

test("the agent's port is asked for, and the greeting behind the answer is the first that is read", async (t) => {
  const lines: string[] = [];
  const path = await device(t, (socket, line) => {
    lines.push(line);
    socket.write("OK 1073741824\ngreeting");
  });
  const socket = await firecrackerTransport(path).open(deadline());
  t.after(() => socket.destroy());
  assert.deepEqual(lines, ["CONNECT 1000\n"]);
  assert.equal(await firstRead(socket), "greeting");
});

test("a greeting that comes later, and an answer in pieces, are read as well", async (t) => {
  const path = await device(t, (socket) => {
    socket.write("OK 10");
    setTimeout(() => socket.write("73741825\n"), 20);
    setTimeout(() => socket.write("greeting"), 60);
  });
  const socket = await firecrackerTransport(path).open(deadline());
  t.after(() => socket.destroy());
  assert.equal(await firstRead(socket), "greeting");
});

test("attempts are repeated while the guest refuses, and while the device answers something else", async (t) => {
  let attempts = 0;
  const path = await device(t, (socket) => {
    attempts += 1;
    if (attempts === 1) socket.destroy();
    else if (attempts === 2) socket.write(`${"x".repeat(64)}\n`);
    else socket.write("OK 1\ngreeting");
  });
  const socket = await firecrackerTransport(path).open(deadline());
  t.after(() => socket.destroy());
  assert.equal(attempts, 3);
});

test("an abort ends the attempts", async (t) => {
  const path = await device(t, (socket) => socket.destroy());
  await assert.rejects(firecrackerTransport(path).open(AbortSignal.timeout(300)));
});
