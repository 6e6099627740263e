import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { startControlPlane } from "@opensandbox/control-plane";
import type { Progress, WorkerDescription } from "@opensandbox/wire/worker/worker.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { openWorker } from "@opensandbox/worker";
import type { ServerConfig } from "./config.ts";
import { log } from "./log.ts";
import { workerOptions } from "./worker-options.ts";

/** A control plane and a worker in one process. Disposing it stops every sandbox that runs on it. */
export interface Server extends AsyncDisposable {
  readonly url: string;
  /** The plain text of a key that works, when it is known: a fixed one, a throw-away one, or the first one. */
  readonly apiKey?: string;
  /** The database's first key, when this start has made it. It is stored as a hash and never shown again. */
  readonly firstApiKey?: string;
  readonly description: WorkerDescription;
}

export interface StartServerOptions {
  /** For the life of one command: any free port of 127.0.0.1, a key that nobody else has, and no log of what goes well. */
  readonly embedded: boolean;
  /** Made ready before this returns, so that the first create does not wait for it. */
  readonly image?: string;
  readonly onProgress: (progress: Progress) => void;
}

/**
 * Starts everything that a sandbox needs in this process.
 * @throws what is missing on this host, with what to do about it; nothing is left running then
 */
export async function startServer(
  config: ServerConfig,
  { embedded, image, onProgress }: StartServerOptions,
  signal: AbortSignal,
): Promise<Server> {
  await using undo = new AsyncDisposableStack();
  const quiet: typeof log = (level, message, fields) => {
    if (level !== "info") log(level, message, fields);
  };
  const logTo = embedded ? quiet : log;
  const opened = undo.use(await openWorker({ ...workerOptions(config), log: logTo }));
  if (image !== undefined) await opened.prepare(image, onProgress, signal);
  signal.throwIfAborted();
  const apiKey = embedded ? `osb_${randomHex(32)}` : config.apiKey;
  const controlPlane = undo.use(
    await startControlPlane(
      {
        worker: opened.worker,
        databaseFile: join(config.dataDirectory, "opensandbox.sqlite"),
        listen: embedded ? { host: "127.0.0.1", port: 0 } : { host: config.host, port: config.port },
        ...(apiKey === undefined ? {} : { apiKey }),
        region: config.region,
        sandboxDomain: config.sandboxDomain,
        isWorkerAlive: (id) => opened.isWorkerAlive(id),
        defaults: {
          vcpus: config.defaultVcpus,
          memoryMib: config.defaultMemoryMib,
          workspaceMib: 20_480,
          idleTimeoutSeconds: 0,
        },
        maxSandboxes: config.maxSandboxes,
        ready: () => ({ ready: true }),
        log: logTo,
      },
      signal,
    ),
  );
  if (!embedded) undo.use(await publishAddress(config.dataDirectory, controlPlane.url));
  const owned = undo.move();
  const known = apiKey ?? controlPlane.firstApiKey;
  return {
    url: controlPlane.url,
    ...(known === undefined ? {} : { apiKey: known }),
    ...(controlPlane.firstApiKey === undefined ? {} : { firstApiKey: controlPlane.firstApiKey }),
    description: opened.worker.describe(),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Lets the command line of this host find the server without being told where it is. */
async function publishAddress(dataDirectory: string, url: string): Promise<AsyncDisposable> {
  await mkdir(dataDirectory, { recursive: true });
  const file = join(dataDirectory, "server.json");
  await writeFile(`${file}.${process.pid}`, JSON.stringify({ url, pid: process.pid }));
  await rename(`${file}.${process.pid}`, file);
  return { [Symbol.asyncDispose]: () => rm(file, { force: true }) };
}
