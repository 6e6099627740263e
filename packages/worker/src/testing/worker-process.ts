// A worker in a process of its own, which a test can kill. spawn-worker.ts starts it with its `WorkerProcessOptions` as
// the argument; calls and replies are lines of JSON on standard input and output.
import { createInterface } from "node:readline";
import { asSandboxError, errorToWire } from "@opensandbox/wire/errors.ts";
import { armFailpoints } from "#host/failpoints.ts";
import type { Reply, Request, WorkerCalls, WorkerProcessOptions } from "./spawn-worker.ts";
import { openTestWorker, shell } from "./test-host.ts";

const never = new AbortController().signal;
const options = JSON.parse(process.argv[2] ?? "{}") as WorkerProcessOptions;
armFailpoints(process.env["OPENSANDBOX_FAILPOINTS"] ?? "");

const opened = await openTestWorker({
  ...options,
  log: (level, message, fields) => send({ kind: "log", level, message, ...(fields === undefined ? {} : { fields }) }),
});
const { worker } = opened;
const calls: { readonly [Name in keyof WorkerCalls]: (...args: Parameters<WorkerCalls[Name]>) => Promise<unknown> } = {
  start: async (request) => await worker.startSandbox(request, () => undefined, never),
  shell: async (id, line) => await shell(worker, id, line),
  capture: async (id, snapshotId) =>
    await worker.captureSandbox(id, { snapshotId, contents: "memory and disks" }, never),
  hibernate: async (id, snapshotId) => await worker.hibernateSandbox(id, snapshotId, never),
  powerCycle: async (id) => await worker.powerCycleSandbox(id, never),
  stop: async (id) => await worker.stopSandbox(id),
  findSnapshot: async (snapshotId) => await worker.findSnapshot(snapshotId),
  removeSnapshot: async (snapshotId) => await worker.removeSnapshot(snapshotId),
  arm: async (failpoints) => await Promise.resolve(armFailpoints(failpoints)),
};
send({ kind: "opened", adopted: await worker.listSandboxes() });
for await (const line of createInterface({ input: process.stdin })) void answer(JSON.parse(line) as Request);
await opened[Symbol.asyncDispose]();

async function answer({ id, name, args }: Request): Promise<void> {
  const call = calls[name] as (...args: readonly unknown[]) => Promise<unknown>;
  try {
    send({ kind: "result", id, result: await call(...args) });
  } catch (error) {
    send({ kind: "error", id, error: errorToWire(asSandboxError(error)) });
  }
}

function send(reply: Reply): void {
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
