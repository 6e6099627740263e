import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { RemoteWorker } from "../../packages/control-plane/src/fleet/remote/remote-worker.ts";
import { isOutcomeUnknown } from "../../packages/control-plane/src/lifecycle/unknown-outcome.ts";
import { type FleetCredentials, makeCredentials } from "../../packages/server/src/fleet/fleet-token.ts";
import { serveWorker, type WorkerEndpoint } from "../../packages/worker/src/serve/serve-worker.ts";
import { makeDataDirectory, openTestWorker, startRequest } from "../../packages/worker/src/testing/test-host.ts";
import { type Cable, startCable } from "./cable.ts";
import { workerContract, type WorkerStand } from "./worker-contract.ts";

const never = new AbortController().signal;
const log = (): void => {};

workerContract("a worker in this process", openLocal);
workerContract("a worker behind a connection", async () => {
  await using undo = new AsyncDisposableStack();
  const local = undo.use(await openLocal());
  const credentials = await makeCredentials();
  const endpoint = undo.use(await serve(local, credentials));
  const worker = undo.use(await dial(endpoint.url, credentials));
  const owned = undo.move();
  return { worker, status: local.status, [Symbol.asyncDispose]: () => owned.disposeAsync() };
});

test("a connection that breaks fails the calls on it, and loses no sandbox", async () => {
  await using cable = await startOnCable();
  const { worker } = cable;
  const request = startRequest();
  await worker.startSandbox(request, () => {}, never);
  const { sessions } = worker.guest(request.id);
  const run = { command: { argv: ["sleep", "600"] as const }, purpose: "exec", keepOutput: false } as const;
  const id = randomHex(4);
  const attached = await sessions.run({ ...run, id, whenDetached: "kill", transient: false }, never);
  const output = Array.fromAsync(attached.output);
  output.catch(() => undefined);
  const ended = worker.waitForEnd(request.id, never);
  ended.catch(() => undefined);

  cable.cut();
  await assertUnavailable(output);
  await assertUnavailable(attached.result);
  await assertUnavailable(worker.listSandboxes());

  cable.mend();
  await eventually("the worker answers again", () => worker.listSandboxes().catch(() => undefined));
  assert.equal((await worker.listSandboxes()).length, 1);
  const { end } = await sessions.wait(id, 0, never);
  assert.equal(end, undefined, "a connection that breaks kills no command");
  await worker.stopSandbox(request.id);
  assert.equal((await within("the wait for the end goes on", ended)).reason, "stopped");
});

test("a worker that stops answering fails the calls on its connection within the time of a probe", async () => {
  await using cable = await startOnCable();
  const { worker } = cable;
  await worker.listSandboxes();
  cable.stall();
  const begun = Date.now();
  await assertUnavailable(worker.listSandboxes());
  assert.ok(Date.now() - begun < 5000, `it took ${Date.now() - begun} ms`);
  cable.mend();
  await eventually("the worker answers again", () => worker.listSandboxes().catch(() => undefined));
});

test("a worker notices a server that has vanished", async () => {
  await using cable = await startOnCable();
  const { worker, local } = cable;
  const request = startRequest();
  await worker.startSandbox(request, () => {}, never);
  const id = randomHex(4);
  const session = { id, command: { argv: ["sleep", "600"] }, purpose: "exec", keepOutput: false } as const;
  const attached = await worker
    .guest(request.id)
    .sessions.run({ ...session, whenDetached: "keep", transient: false }, never);
  attached.result.catch(() => undefined);
  const attachedOf = async (): Promise<number | undefined> =>
    (await local.guest(request.id).sessions.list(never)).find((each) => each.id === id)?.attached;
  assert.equal(await attachedOf(), 1);
  cable.stall();
  await eventually("the listener is detached", async () => (await attachedOf()) === 0);
});

test("whether a start that is aborted has failed is unknown, and its worker ends it", async () => {
  await using cable = await startOnCable();
  const { worker } = cable;
  const ending = new AbortController();
  const starting = worker.startSandbox(startRequest(), () => ending.abort(), ending.signal);
  setTimeout(() => ending.abort(), 5).unref();
  await assert.rejects(within("the start fails", starting), (error) => isOutcomeUnknown(error));
  assert.ok(!isOutcomeUnknown(ending.signal.reason), "other operations share the reason");
  const isGone = async (): Promise<boolean> => (await worker.listSandboxes()).length === 0;
  await eventually("the worker has ended it", isGone);
  await assert.rejects(
    worker.startSandbox(startRequest(), () => {}, ending.signal),
    (error) => !isOutcomeUnknown(error),
  );
});

test("a server with another token is refused with a reason", async () => {
  await using undo = new AsyncDisposableStack();
  const local = undo.use(await openLocal());
  const credentials = await makeCredentials();
  const endpoint = undo.use(await serve(local, credentials));
  await assert.rejects(dial(endpoint.url, { ...credentials, secret: "guessed" }), (error) => {
    assert.ok(isSandboxError(error, "unavailable"), String(error));
    assert.match(error.message, /refuses this fleet's token/);
    return true;
  });
});

test("a server of another fleet is refused in the handshake", async () => {
  await using undo = new AsyncDisposableStack();
  const local = undo.use(await openLocal());
  const [ours, theirs] = [await makeCredentials(), await makeCredentials()];
  const endpoint = undo.use(await serve(local, ours));
  await assertUnavailable(dial(endpoint.url, theirs));
  await assertUnavailable(dial(endpoint.url, { ...theirs, ca: ours.ca }));
});

async function assertUnavailable(promise: Promise<unknown>): Promise<void> {
  await assert.rejects(within("a call fails", promise), (error) => {
    assert.ok(isSandboxError(error, "unavailable"), String(error));
    return true;
  });
}

async function openLocal(): Promise<WorkerStand> {
  const dataDirectory = await makeDataDirectory();
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(dataDirectory, { recursive: true }));
  const opened = undo.use(await openTestWorker({ dataDirectory, hypervisor: "fake", readyMachines: 0, log }));
  const owned = undo.move();
  return { worker: opened.worker, status: () => opened.status(), [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function serve({ worker, status }: WorkerStand, { secret, ...tls }: FleetCredentials): Promise<WorkerEndpoint> {
  return await serveWorker({
    worker,
    id: "wk-test",
    instance: randomHex(8),
    version: "test",
    status,
    listen: { host: "127.0.0.1", port: 0 },
    tls,
    token: secret,
    log,
    tuning: { pingMs: 300 },
  });
}

async function dial(url: string, { secret, ...tls }: FleetCredentials): Promise<RemoteWorker> {
  const tuning = { pingMs: 300, connectMs: 1000, retryMs: 50, answerMs: 10_000 };
  return await RemoteWorker.connect({ url, tls, token: secret, version: "test", log, tuning });
}

interface CabledWorker extends Cable {
  /** The worker behind the cable, as its server reaches it. */
  readonly worker: RemoteWorker;
  readonly local: WorkerStand["worker"];
}

/** A worker whose connection a test can disturb. */
async function startOnCable(): Promise<CabledWorker> {
  await using undo = new AsyncDisposableStack();
  const local = undo.use(await openLocal());
  const credentials = await makeCredentials();
  const endpoint = undo.use(await serve(local, credentials));
  const cable = undo.use(await startCable(endpoint.url));
  const worker = undo.use(await dial(cable.url, credentials));
  const owned = undo.move();
  return { ...cable, worker, local: local.worker, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
