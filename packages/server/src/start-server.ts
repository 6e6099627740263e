import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { startControlPlane, type AtEnd } from "@opensandbox/control-plane";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Progress, WorkerDescription } from "@opensandbox/wire/worker/worker.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { openWorker } from "@opensandbox/worker";
import type { ServerConfig } from "./config.ts";
import { keepFirstApiKey, knownApiKey } from "./first-api-key.ts";
import { log } from "./log.ts";
import { publishServer } from "./server-file.ts";
import { workerOptions } from "./worker-options.ts";

/**
 * A control plane and a worker in one process. Disposing it hibernates every sandbox that runs on it; an embedded one
 * deletes them.
 */
export interface Server extends AsyncDisposable {
  readonly url: string;
  /** The plain text of a key that works, when it is known: a fixed one, a throw-away one, or the kept first one. */
  readonly apiKey?: string;
  /** The database's first key, when this start has made it. The database has only its hash. */
  readonly firstApiKey?: string;
  readonly description: WorkerDescription;
}

export interface StartServerOptions {
  /** For the life of one command: any free port of 127.0.0.1, a key that nobody else has, and a log of errors only. */
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
  // What fails is told to the one caller there is.
  const quiet: typeof log = (level, message, fields) => {
    if (level === "error") log(level, message, fields);
  };
  const logTo = embedded ? quiet : log;
  const end = embedded ? undefined : undo.use(leaveOnSignal());
  const opened = undo.use(
    await openWorker({
      ...workerOptions(config),
      // Who lives for one command has no use for machines that wait for a second one.
      ...(embedded ? { readyMachines: 0 } : {}),
      ephemeral: embedded,
      log: logTo,
    }),
  );
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
        ...(config.tls === undefined || embedded ? {} : { tls: await readTls(config.tls) }),
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
        ephemeral: embedded,
        ...(end === undefined ? {} : { atEnd: () => end.atEnd }),
        autosaveMs: config.autosaveSeconds * 1000,
        ready: () => ({ ready: true }),
        log: logTo,
      },
      signal,
    ),
  );
  if (controlPlane.firstApiKey !== undefined) await keepFirstApiKey(config.dataDirectory, controlPlane.firstApiKey);
  const known = apiKey ?? controlPlane.firstApiKey ?? (await knownApiKey(config.dataDirectory));
  if (!embedded) {
    const published = { url: controlPlane.url, pid: process.pid, ...(known === undefined ? {} : { apiKey: known }) };
    undo.use(await publishServer(config.dataDirectory, published));
  }
  const owned = undo.move();
  return {
    url: controlPlane.url,
    ...(known === undefined ? {} : { apiKey: known }),
    ...(controlPlane.firstApiKey === undefined ? {} : { firstApiKey: controlPlane.firstApiKey }),
    description: opened.worker.description,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/**
 * SIGUSR2 ends the server like SIGTERM does, but its machines go on and the next server takes them over: how a newer
 * version takes the place of an older one.
 */
function leaveOnSignal(): Disposable & { readonly atEnd: AtEnd } {
  let atEnd: AtEnd = "hibernate";
  const leave = (): void => {
    atEnd = "leave";
    process.kill(process.pid, "SIGTERM");
  };
  process.on("SIGUSR2", leave);
  return {
    get atEnd() {
      return atEnd;
    },
    [Symbol.dispose]() {
      process.off("SIGUSR2", leave);
    },
  };
}

async function readTls({
  certFile,
  keyFile,
}: NonNullable<ServerConfig["tls"]>): Promise<{ cert: string; key: string }> {
  try {
    return { cert: await readFile(certFile, "utf8"), key: await readFile(keyFile, "utf8") };
  } catch (cause) {
    const message = `the certificate cannot be read: ${(cause as Error).message}`;
    throw new SandboxError("unavailable", message, { cause });
  }
}
