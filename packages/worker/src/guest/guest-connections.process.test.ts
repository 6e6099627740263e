import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type AgentTransport, untilGreeted } from "#host/agent-transport.ts";
import { fakeHypervisor } from "#hypervisor/fake/fake-hypervisor.ts";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { AttachedSession } from "@opensandbox/wire/worker/sessions.ts";
import { GuestClient } from "./guest-client.ts";
import { guestSessions } from "./guest-sessions.ts";

const inTime = (): AbortSignal => AbortSignal.timeout(20_000);

async function temporaryDirectory(undo: AsyncDisposableStack): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-guest-"));
  undo.defer(() => rm(directory, { recursive: true }));
  return directory;
}

/** Connections to the agent itself, at a unix socket. `opened` collects them. */
function transportTo(path: string, opened: Socket[]): AgentTransport {
  return {
    name: "vsock",
    endsAt: "agent",
    open: (signal) =>
      untilGreeted(async () => {
        const socket = connect(path);
        opened.push(socket);
        return { socket, isAccepted: () => !socket.connecting && !socket.destroyed };
      }, signal),
  };
}

test("a guest that resets its connection is reached again by the next call, and its commands run on", async () => {
  await using undo = new AsyncDisposableStack();
  const directory = await temporaryDirectory(undo);
  const agent = join(import.meta.dirname, "../../../guest-agent/src/main.ts");
  const hypervisor = fakeHypervisor([process.execPath, "--disable-warning=ExperimentalWarning", agent]);
  const nothing = { kernel: "", initramfs: "", bootArguments: [], disks: [], network: { kind: "none" } } as const;
  const spec = { directory, vcpus: 1, memoryMib: 256, hotplugMib: 0, memoryBase: "", ...nothing };
  undo.use(await hypervisor.boot(spec, inTime()));
  const opened: Socket[] = [];
  const guest = undo.use(await GuestClient.connect(transportTo(join(directory, "agent.sock"), opened)));
  assert.equal(opened.length, 0);

  const sessions = guestSessions(() => guest);
  const kept = { purpose: "exec", keepOutput: false, whenDetached: "keep" } as const;
  const command = { argv: ["/bin/sh", "-c", "read line; echo got $line"], stdin: true } as const;
  const { id } = await sessions.create({ id: "s1", command, ...kept }, inTime());
  const before = await sessions.attach(id, { fromStart: true }, inTime());
  const reading = textOf(before.output);
  opened[0]?.destroy();
  await assert.rejects(reading, (error) => isSandboxError(error, "unavailable") && /reset/.test(error.message));
  // Only a call connects again.
  await sleep(300);
  assert.equal(opened.length, 1);
  await guest.ping(inTime());
  assert.equal(opened.length, 2);
  const after = await sessions.attach(id, { fromStart: true }, inTime());
  await after.write(Buffer.from("it\n"));
  assert.equal(await textOf(after.output), "got it\n");
});

async function textOf(output: AttachedSession["output"]): Promise<string> {
  let text = "";
  for await (const part of output) if (part !== "scrollback end") text += Buffer.from(part.bytes).toString();
  return text;
}

test("an agent is found although it listens late, and although the first connections are never answered", async () => {
  await using undo = new AsyncDisposableStack();
  const path = join(await temporaryDirectory(undo), "agent.sock");
  const opened: Socket[] = [];
  const opening = transportTo(path, opened).open(inTime());
  await sleep(250);
  const refused = opened.length;
  assert.ok(refused >= 2 && refused <= 4, `${refused} attempts in 250 ms`);
  let connections = 0;
  const server = createServer((socket) => {
    connections += 1;
    socket.on("error", () => undefined);
    if (connections === 1) socket.destroy();
    else setTimeout(() => socket.write("greeting"), 2500);
  });
  undo.defer(() => void server.close());
  server.listen(path);
  const socket = await opening;
  undo.defer(() => void socket.destroy());
  // The agent accepted the second connection and was only slow to greet.
  assert.equal(connections, 2);
  const greeting = once(socket, "data");
  socket.resume();
  assert.equal(String((await greeting)[0]), "greeting");
});

test("a wait for an agent ends with its signal and leaves no connection", async () => {
  await using undo = new AsyncDisposableStack();
  const path = join(await temporaryDirectory(undo), "agent.sock");
  const opened: Socket[] = [];
  const silent = createServer((socket) => socket.on("error", () => undefined));
  undo.defer(() => void silent.close());
  silent.listen(path);
  await assert.rejects(transportTo(path, opened).open(AbortSignal.timeout(200)), { name: "TimeoutError" });
  assert.equal(opened.length, 1);
  assert.ok(opened[0]?.destroyed);
});

test("a client that is disposed while it connects refuses its callers", async () => {
  await using undo = new AsyncDisposableStack();
  const path = join(await temporaryDirectory(undo), "agent.sock");
  const guest = await GuestClient.connect(transportTo(path, []));
  const pinged = guest.ping(inTime());
  await sleep(50);
  guest[Symbol.dispose]();
  await assert.rejects(pinged, (error) => isSandboxError(error, "unavailable"));
  await assert.rejects(guest.ready(inTime()), (error) => isSandboxError(error, "unavailable"));
});
