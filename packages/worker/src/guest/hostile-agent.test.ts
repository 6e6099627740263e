import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { encodeFrame, FrameReader, frameTypes } from "@opensandbox/wire/guest/frame.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { within } from "@opensandbox/wire/testing/eventually.ts";
import { Hostility, type Manner } from "#testing/hostile/hostility.ts";
import { Random } from "#testing/hostile/random.ts";
import { virtioSerialTransport } from "#host/agent-transport.ts";
import { GuestClient } from "./guest-client.ts";
import { guestFiles } from "./guest-files.ts";
import { guestPorts } from "./guest-ports.ts";
import { guestSessions } from "./guest-sessions.ts";

const connections = 8;
/** Each turn is ten calls at the same time. */
const turnsPerConnection = 4;
const silenceLimits = { pingAfterMs: 100, giveUpAfterMs: 200 };

const seed = Number(process.env["OPENSANDBOX_TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

for (const manner of ["lying", "breaking"] as const) {
  // An unhandled rejection or exception in this process fails the test, too.
  test(`every call to an agent that is ${manner} settles with a value or an error of ours`, async (t) => {
    t.diagnostic(`OPENSANDBOX_TEST_SEED=${seed}`);
    const random = new Random(seed);
    const outcomes = new Map<string, number>();
    for (let connection = 0; connection < connections; connection += 1) {
      await using agent = await startHostileAgent(random.fork(), manner);
      for (let turn = 0; turn < turnsPerConnection; turn += 1) {
        const settled = await Promise.all(Array.from({ length: 10 }, () => callAtRandom(agent.guest, random)));
        for (const outcome of settled) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      }
    }
    t.diagnostic(JSON.stringify(Object.fromEntries(outcomes)));
    // The agent has been asked, and has lied.
    assert.ok((outcomes.get("value") ?? 0) > 0, "no call succeeds");
    assert.ok((outcomes.get("unavailable") ?? 0) > 0, "no answer is refused");
  });
}

/** Makes one call, reads its answer for a while, and leaves. Returns `value` or the error's code. */
async function callAtRandom(guest: GuestClient, random: Random): Promise<string> {
  const [name, call] = random.pick(Object.entries(calls) as [[string, Call], ...[string, Call][]]);
  const signal = AbortSignal.timeout(random.size(400) + 1);
  try {
    await within(`the end of ${name} (seed ${seed})`, call(guest, random, signal), 30_000);
    return "value";
  } catch (error) {
    assert.ok(isSandboxError(error), `${name}, seed ${seed}: ${String((error as Error).stack)}`);
    return error.code;
  }
}

type Call = (guest: GuestClient, random: Random, signal: AbortSignal) => Promise<unknown>;

const files = (guest: GuestClient) => guestFiles(() => guest);
const sessions = (guest: GuestClient) => guestSessions(() => guest);

/** At least one call for each method of {@link methods}. */
const calls: Readonly<Record<string, Call>> = {
  ping: (guest, _, signal) => guest.ping(signal),
  configure: (guest, random, signal) =>
    guest.call(methods.configure, { envs: { LARGE: "x".repeat(random.size(500_000)) }, replaceEnvs: true }, signal),
  readFile: async (guest, random, signal) => {
    const { content } = await files(guest).read("/file", { length: random.size(10_000) }, signal);
    await take(content, random);
  },
  writeFile: (guest, random, signal) => files(guest).write("/file", pieces(random), {}, signal),
  stat: (guest, _, signal) => files(guest).stat("/file", {}, signal),
  list: (guest, _, signal) => files(guest).list("/", signal),
  makeDirectory: (guest, _, signal) => files(guest).makeDirectory("/directory", signal),
  remove: (guest, _, signal) => files(guest).remove("/file", signal),
  sync: (guest, _, signal) => files(guest).sync(signal),
  rename: (guest, _, signal) => files(guest).rename("/file", "/other", signal),
  setAttributes: (guest, _, signal) => files(guest).setAttributes("/file", { mode: 0o600 }, signal),
  watch: async (guest, random, signal) => {
    await take(await files(guest).watch("/", { recursive: true }, signal), random);
  },
  freezeAndThaw: async (guest, _, signal) => {
    await guest.freeze(signal).catch(requireOurs);
    assert.equal(typeof guest.frozen, "boolean");
    await guest.thaw(AbortSignal.timeout(300));
  },
  sessionCreate: (guest, _, signal) => sessions(guest).create(command, signal),
  sessionRun: async (guest, random, signal) => {
    const session = await sessions(guest).run(
      { ...command, id: "left", whenDetached: "kill", transient: true },
      signal,
    );
    session.result.catch(requireOurs);
    await Promise.all([
      take(session.output, random),
      session.write(random.bytes(random.size(300_000))).then(() => session.closeStdin()),
    ]);
  },
  sessionAttach: async (guest, random, signal) => {
    const session = await sessions(guest).attach("kept", { fromStart: true }, signal);
    session.result.catch(requireOurs);
    await take(session.output, random);
  },
  sessionList: (guest, _, signal) => sessions(guest).list(signal),
  sessionSignal: (guest, _, signal) => sessions(guest).signal("kept", 15, signal),
  sessionResize: (guest, _, signal) => sessions(guest).resize("kept", { columns: 80, rows: 24 }, signal),
  sessionWait: (guest, _, signal) => sessions(guest).wait("kept", 100, signal),
  sessionRemove: (guest, _, signal) => sessions(guest).remove("kept", signal),
  connect: async (guest, random, signal) => {
    const connection = await guestPorts(() => guest).open(80, signal);
    await Promise.all([
      take(connection.incoming, random),
      connection.write(random.bytes(random.size(300_000))).then(() => connection.end()),
    ]);
  },
  fitMemory: (guest, _, signal) => guest.call(methods.fitMemory, {}, signal),
  reshape: (guest, _, signal) => guest.call(methods.reshape, { workspaceBytes: 2n ** 30n }, signal),
};

function requireOurs(error: unknown): void {
  assert.ok(isSandboxError(error), String((error as Error).stack));
}

/** Takes some parts and leaves, or takes all. */
async function take(parts: AsyncIterable<unknown>, random: Random): Promise<void> {
  let left = random.chance(50) ? random.below(5) : Infinity;
  for await (const _ of parts) {
    left -= 1;
    if (left <= 0) return;
  }
}

async function* pieces(random: Random): AsyncGenerator<Uint8Array> {
  for (let count = random.below(5); count > 0; count -= 1) yield random.bytes(random.size(100_000));
}

const command = {
  id: "kept",
  command: { argv: ["true"], stdin: true },
  purpose: "exec",
  keepOutput: false,
  whenDetached: "keep",
} as const;

interface HostileAgent extends AsyncDisposable {
  readonly guest: GuestClient;
}

/** A connection to an agent that greets, and answers everything else at random. */
async function startHostileAgent(seedOfAgent: number, manner: Manner): Promise<HostileAgent> {
  const directory = await mkdtemp(join(tmpdir(), "osb-hostile-"));
  const path = join(directory, "agent.sock");
  const random = new Random(seedOfAgent);
  const open = new Set<Socket>();
  const disposed: Disposable[] = [];
  const server = createServer((socket) => {
    open.add(socket);
    socket.on("error", () => socket.destroy());
    const hostility = new Hostility(random, manner, {
      send: (bytes) => void (socket.destroyed || socket.write(bytes)),
      get isFree() {
        return !socket.destroyed && !socket.writableNeedDrain;
      },
      cut: () => socket.destroy(),
      pause: (paused) => void (paused ? socket.pause() : socket.resume()),
    });
    disposed.push(hostility);
    const reader = new FrameReader();
    socket.on("data", (chunk: Buffer) => {
      for (const frame of reader.push(chunk)) {
        hostility.fromWorker(frame);
        const greeting = { ...frame, payload: new Uint8Array(0) };
        if (frame.type === frameTypes.hello) socket.write(encodeFrame(greeting));
      }
    });
  });
  server.listen(path);
  await once(server, "listening");
  const guest = await GuestClient.connect(virtioSerialTransport(path), { silenceLimits });
  return {
    guest,
    async [Symbol.asyncDispose]() {
      guest[Symbol.dispose]();
      for (const one of disposed) one[Symbol.dispose]();
      for (const socket of open) socket.destroy();
      server.close();
      await rm(directory, { recursive: true });
    },
  };
}
