import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { DatabaseLocation } from "#database/database-server.ts";
import type { SandboxReply } from "@opensandbox/wire/public/sandboxes/sandboxes.ts";
import { startControlPlane, type ControlPlane, type ControlPlaneOptions } from "../index.ts";
import { TestWorker } from "./test-worker.ts";

export const testKey = "key-of-the-test";

export interface TestControlPlane extends AsyncDisposable {
  readonly worker: TestWorker;
  readonly plane: ControlPlane;
  readonly url: string;
  readonly database: DatabaseLocation;
  readonly logged: { level: string; message: string; fields?: object | undefined }[];
  /** `fetch` with the key. A body other than text, bytes or a stream is sent as JSON. */
  call(method: string, path: string, body?: unknown, init?: RequestInit): Promise<Response>;
  /** Creates a sandbox and returns its id. */
  create(body?: object): Promise<SandboxId>;
  /** The public representation of a sandbox. */
  get(id: string): Promise<SandboxReply>;
  /** Like `call`, with status and JSON as the result. */
  ask(method: string, path: string, body?: unknown, init?: RequestInit): Promise<[status: number, reply: Json]>;
}

// oxlint-disable-next-line typescript/no-explicit-any -- a test checks the fields that it reads
export type Json = any;

export interface TestOptions extends Partial<ControlPlaneOptions> {
  readonly worker?: TestWorker;
  /** Accepts the keys of the database instead of {@link testKey}. */
  readonly storedKeys?: boolean;
}

/** A control plane on a free port with a database of its own and a {@link TestWorker}. */
export async function startForTest({ storedKeys = false, ...options }: TestOptions = {}): Promise<TestControlPlane> {
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "control-plane-test-"));
  undo.defer(() => rm(directory, { recursive: true }));
  const worker = options.worker ?? new TestWorker();
  // Processes in the memory of a hibernated machine are real processes of this host.
  if (options.worker === undefined) undo.defer(() => worker.killAll());
  const database = options.database ?? join(directory, "control-plane.db");
  const logged: TestControlPlane["logged"] = [];
  const plane = undo.use(
    await startControlPlane({
      listen: { host: "127.0.0.1", port: 0 },
      ...(storedKeys ? {} : { apiKey: testKey }),
      region: "local",
      sandboxDomain: "sandbox.test",
      isWorkerAlive: (id) => id === worker.id,
      defaults: { vcpus: 1, memoryMib: 1024, workspaceMib: 20_480, idleTimeoutSeconds: 300 },
      customDomains: { proof: "none" },
      ready: () => ({ ready: true }),
      atEnd: () => "stop",
      templateFilesDirectory: join(directory, "template-files"),
      log: (level, message, fields) => logged.push({ level, message, fields }),
      ...options,
      tuning: { farewellMs: 50, ...options.tuning },
      worker,
      database,
    }),
  );
  const call: TestControlPlane["call"] = (method, path, body, init = {}) =>
    fetch(`${plane.url}${path}`, {
      method,
      ...(body === undefined ? {} : { body: isRaw(body) ? body : JSON.stringify(body) }),
      ...(body instanceof ReadableStream ? { duplex: "half" } : {}),
      ...init,
      headers: { "x-api-key": testKey, ...(init.headers as Record<string, string>) },
    });
  const owned = undo.move();
  return {
    worker,
    plane,
    url: plane.url,
    database,
    logged,
    call,
    create: async (body = {}) => {
      const response = await call("POST", "/api/sandboxes", body);
      if (response.status !== 201) throw new Error(`create: ${response.status} ${await response.text()}`);
      return ((await response.json()) as { sandboxID: SandboxId }).sandboxID;
    },
    get: async (id) => (await (await call("GET", `/api/sandboxes/${id}`)).json()) as SandboxReply,
    ask: async (...request) => {
      const response = await call(...request);
      const text = await response.text();
      return [response.status, text === "" ? undefined : JSON.parse(text)];
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Starts another control plane over the same database and host, as after the first one was killed. */
export async function startAfterCrash(
  { worker, database }: TestControlPlane,
  options: Partial<ControlPlaneOptions> = {},
): Promise<TestControlPlane> {
  return startForTest({ ...options, database, worker: new TestWorker("worker-2", worker.host) });
}

function isRaw(body: unknown): body is NonNullable<RequestInit["body"]> {
  return typeof body === "string" || body instanceof Uint8Array || body instanceof ReadableStream;
}
