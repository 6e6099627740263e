import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { errorFromWire, type ErrorOnWire } from "@opensandbox/wire/errors.ts";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import type {
  HeldSandbox,
  CapturedSnapshot,
  StartedSandbox,
  StartSandbox,
  StoredSnapshot,
} from "@opensandbox/wire/worker/worker.ts";

export interface WorkerProcessOptions {
  readonly dataDirectory: string;
}

/** The calls that a worker in another process answers. */
export interface WorkerCalls {
  start(request: StartSandbox): StartedSandbox;
  shell(id: SandboxId, line: string): string;
  capture(id: SandboxId, snapshotId: SnapshotId): CapturedSnapshot;
  hibernate(id: SandboxId, snapshotId: SnapshotId): CapturedSnapshot;
  powerCycle(id: SandboxId): void;
  stop(id: SandboxId): void;
  findSnapshot(snapshotId: SnapshotId): StoredSnapshot | undefined;
  removeSnapshot(snapshotId: SnapshotId): void;
  /** Arms failpoints: see `armFailpoints`. */
  arm(failpoints: string): void;
}

export interface Request {
  readonly id: number;
  readonly name: keyof WorkerCalls;
  readonly args: readonly unknown[];
}

export type Reply =
  | { readonly kind: "opened"; readonly adopted: readonly HeldSandbox[] }
  | { readonly kind: "result"; readonly id: number; readonly result: unknown }
  | { readonly kind: "error"; readonly id: number; readonly error: ErrorOnWire }
  | { readonly kind: "log"; readonly level: string; readonly message: string; readonly fields?: object };

/** A worker in a process of its own. Disposing it ends it in good order, with its machines. */
export interface SpawnedWorker extends AsyncDisposable {
  readonly adopted: readonly HeldSandbox[];
  readonly logged: readonly Extract<Reply, { kind: "log" }>[];
  /** Rejects with {@link workerDied} when the process ends before it answers. */
  call<Name extends keyof WorkerCalls>(
    name: Name,
    ...args: Parameters<WorkerCalls[Name]>
  ): Promise<ReturnType<WorkerCalls[Name]>>;
  /** Resolves when the process has ended, for any reason. */
  readonly ended: Promise<void>;
  /** Kills the process by SIGKILL, as the kernel does when memory runs out. */
  kill(): Promise<void>;
}

export const workerDied = "the worker died";

/** @throws {@link workerDied} when the process ends before the worker is open */
export async function spawnWorker(options: WorkerProcessOptions, failpoints = ""): Promise<SpawnedWorker> {
  const program = join(import.meta.dirname, "worker-process.ts");
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", program, JSON.stringify(options)], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, OPENSANDBOX_FAILPOINTS: failpoints },
  });
  const ended = once(child, "exit").then(() => undefined);
  // A line may be written after the process has died.
  child.stdin.on("error", () => undefined);
  const opened = Promise.withResolvers<readonly HeldSandbox[]>();
  const waiting = new Map<number, PromiseWithResolvers<unknown>>();
  const logged: Extract<Reply, { kind: "log" }>[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => {
    const reply = JSON.parse(line) as Reply;
    if (reply.kind === "opened") opened.resolve(reply.adopted);
    else if (reply.kind === "log") logged.push(reply);
    else if (reply.kind === "result") waiting.get(reply.id)?.resolve(reply.result);
    else waiting.get(reply.id)?.reject(errorFromWire(reply.error));
  });
  const died = ended.then(() => {
    throw new Error(workerDied);
  });
  // Perhaps no call is waiting when the process ends.
  died.catch(() => undefined);
  let nextId = 1;
  return {
    adopted: await Promise.race([opened.promise, died]),
    ...{ logged, ended },
    async call(name, ...args) {
      const id = nextId;
      nextId += 1;
      const answer = Promise.withResolvers<unknown>();
      waiting.set(id, answer);
      const request: Request = { id, name, args };
      child.stdin.write(`${JSON.stringify(request)}\n`);
      return (await Promise.race([answer.promise, died])) as ReturnType<WorkerCalls[typeof name]>;
    },
    async kill() {
      child.kill("SIGKILL");
      await ended;
    },
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      await ended;
    },
  };
}
