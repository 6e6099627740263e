import assert from "node:assert/strict";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { encodeFrame, frameTypes } from "@opensandbox/wire/guest/frame.ts";
import {
  EmptySchema,
  FileStatSchema,
  FileStatsSchema,
  SessionEventSchema,
  SessionInfoSchema,
  SessionInfosSchema,
} from "@opensandbox/wire/guest/messages_pb.js";
import { execPipes, methods } from "@opensandbox/wire/guest/methods.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import { collectBytes } from "./collect.ts";
import { guestFiles } from "./guest-files.ts";
import { GuestLine } from "./guest-line.ts";
import { guestSessions } from "./guest-sessions.ts";
import { startFakeAgent } from "./testing/fake-agent.ts";

const never = new AbortController().signal;

/** What this process holds in buffers outside the JavaScript heap, in bytes, after a collection. */
function bufferBytes(): number {
  (globalThis as { gc?: () => void }).gc?.();
  return process.memoryUsage().arrayBuffers;
}

const mib = 2 ** 20;

test("an endless directory listing fails with what to do instead, and its stream is given up", async () => {
  const givenUp = Promise.withResolvers<void>();
  await using agent = await startFakeAgent(async (stream) => {
    stream.signal.addEventListener("abort", () => givenUp.resolve());
    const name = "x".repeat(200);
    const entries = Array.from({ length: 250 }, () => ({ name, path: `/${name}`, kind: "file" }));
    for (;;) await stream.sendMessage(FileStatsSchema, create(FileStatsSchema, { entries }));
  });
  await assert.rejects(guestFiles(() => agent.guest).list("/endless", never), (error) => {
    return isSandboxError(error, "not_supported") && /more than .*: list it with a command/.test(error.message);
  });
  await orAborted(givenUp.promise, AbortSignal.timeout(5000));
});

test("an endless series of messages meets the limit of entries", async () => {
  await using agent = await startFakeAgent(async (stream) => {
    const nothing = create(SessionInfosSchema, { sessions: Array.from({ length: 1000 }, () => ({})) });
    for (;;) await stream.sendMessage(SessionInfosSchema, nothing);
  });
  await assert.rejects(guestSessions(() => agent.guest).list(never), (error) => isSandboxError(error, "unavailable"));
});

test("a file that exceeds the requested length is not collected", async () => {
  await using agent = await startFakeAgent(async (stream) => {
    await stream.sendMessage(FileStatSchema, create(FileStatSchema, { kind: "file" }));
    for (;;) await stream.sendData(0, new Uint8Array(10_000));
  });
  const { content } = await guestFiles(() => agent.guest).read("/proc/meminfo", { length: 16_384 }, never);
  const excess = (limit: string): SandboxError => new SandboxError("unavailable", `more than ${limit}`);
  await assert.rejects(collectBytes(content, { bytes: 16_384, excess }), /more than 16384 bytes/);
});

test("requests abandoned while the guest reads nothing hold a few megabytes", async () => {
  await using agent = await startFakeAgent(async () => undefined);
  agent.socket.pause();
  const before = bufferBytes();
  const envs = { LARGE: "x".repeat(mib) };
  for (let round = 0; round < 6; round += 1) {
    const left = new AbortController();
    const calls = Array.from({ length: 100 }, () =>
      agent.guest.call(methods.configure, { envs, replaceEnvs: true }, left.signal).catch((error: unknown) => error),
    );
    await sleep(10);
    left.abort();
    for (const error of await Promise.all(calls)) assert.ok(isSandboxError(error, "canceled"));
  }
  const held = bufferBytes() - before;
  assert.ok(held < 64 * mib, `${Math.round(held / mib)} MiB are held`);
  agent.socket.resume();
});

test("an agent that restarts endlessly loses its connection, which is reported", async () => {
  await using agent = await startFakeAgent(async () => undefined);
  const hello = encodeFrame({ stream: 0, epoch: 0, type: frameTypes.hello, tag: 0, payload: new Uint8Array(0) });
  const closed = closeOf(agent.socket);
  agent.socket.write(Buffer.concat(Array.from({ length: 4000 }, () => hello)));
  await closed;
  assert.match(agent.reported[0]?.message ?? "", /given up/);
  await assert.rejects(agent.guest.ping(never), (error) => isSandboxError(error, "unavailable"));
});

test("bytes outside frames close the connection and affect nothing else", async () => {
  await using agent = await startFakeAgent(async () => undefined);
  const refused = assert.rejects(agent.guest.ping(never), (error) => isSandboxError(error, "unavailable"));
  const closed = closeOf(agent.socket);
  for (let sent = 0; sent < 8; sent += 1) agent.socket.write(Buffer.alloc(mib, 0xff));
  await closed;
  await refused;
  assert.equal(agent.reported.length, 1);
});

test("a line to a guest that reads nothing takes a bounded number of bytes and reports that once", async () => {
  await using agent = await startFakeAgent(async () => undefined);
  agent.socket.pause();
  const socket = connect(agent.path);
  await eventOf(socket, "connect");
  const flooded: string[] = [];
  const line = new GuestLine(socket, ({ message }) => {
    flooded.push(message);
    socket.destroy();
  });
  let bytes = 0;
  for (let refused = false; !refused; bytes += mib) {
    const writing = line.write(new Uint8Array(mib));
    writing?.catch(() => undefined);
    refused = flooded.length > 0;
    assert.ok(bytes < 80 * mib, "the line takes more and more");
  }
  assert.deepEqual(flooded, ["the guest has left 64 MiB unread"]);
  await assert.rejects(line.write(new Uint8Array(1)) ?? Promise.resolve());
});

test("times that a Date cannot hold are 1970, in files and in sessions", async () => {
  const beyond = 2n ** 62n;
  await using agent = await startFakeAgent(async (stream, method) => {
    if (method === methods.stat.id) {
      return await stream.reply(FileStatSchema, create(FileStatSchema, { modifiedMs: -beyond }));
    }
    const info = { startedMs: beyond, endedMs: beyond, result: { exitCode: 0 } };
    return await stream.reply(SessionInfoSchema, create(SessionInfoSchema, info));
  });
  const { modifiedMs } = await guestFiles(() => agent.guest).stat("/file", {}, never);
  const { startedMs, endedMs } = await guestSessions(() => agent.guest).wait("session", 1, never);
  assert.deepEqual([modifiedMs, startedMs, endedMs], [0, 0, 0]);
});

test("a long refusal is passed on shortened", async () => {
  await using agent = await startFakeAgent(async (stream) => {
    await stream.refuse(new Error("x".repeat(mib)));
  });
  await assert.rejects(agent.guest.ping(never), ({ message }: Error) => message.length < 10_000);
});

test("output is complete with an agent that creates sessions without attaching", async () => {
  const opened: number[] = [];
  const result = { result: { exitCode: 3 } } satisfies MessageInitShape<typeof SessionInfoSchema>;
  await using agent = await startFakeAgent(async (stream, method) => {
    opened.push(method);
    if (method === methods.sessionCreate.id) return await stream.reply(SessionInfoSchema, create(SessionInfoSchema));
    const attached = create(SessionEventSchema, { event: { case: "attached", value: create(SessionInfoSchema) } });
    await stream.sendMessage(SessionEventSchema, attached);
    await stream.sendData(execPipes.stdout, Buffer.from("out"));
    return await stream.reply(SessionInfoSchema, create(SessionInfoSchema, result));
  });
  const { output, result: ended } = await guestSessions(() => agent.guest).run(privateCommand(), never);
  const parts = [];
  for await (const part of output) if (part !== "scrollback end") parts.push(Buffer.from(part.bytes).toString());
  assert.deepEqual(parts, ["out"]);
  assert.equal((await ended).end.exitCode, 3);
  assert.deepEqual(opened, [methods.sessionCreate.id, methods.sessionAttach.id]);
});

test("a command whose caller leaves is removed by a call that every agent knows", async () => {
  const removed = Promise.withResolvers<number>();
  await using agent = await startFakeAgent(async (stream, method) => {
    if (method === methods.sessionRemove.id) {
      removed.resolve(method);
      return await stream.reply(EmptySchema, create(EmptySchema));
    }
    const attached = create(SessionEventSchema, { event: { case: "attached", value: create(SessionInfoSchema) } });
    return await stream.sendMessage(SessionEventSchema, attached);
  });
  const left = new AbortController();
  const { result } = await guestSessions(() => agent.guest).run(privateCommand(), left.signal);
  left.abort();
  assert.equal(await removed.promise, methods.sessionRemove.id);
  assert.deepEqual(agent.reported, []);
  result.catch(() => undefined);
});

/** `once` would reject when the connection is reset. */
async function closeOf(socket: Socket): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.once("close", () => resolve());
  await promise;
}

function privateCommand() {
  return {
    id: "private",
    command: { argv: ["true"] },
    purpose: "private",
    keepOutput: false,
    whenDetached: "kill",
    transient: true,
  } as const;
}
