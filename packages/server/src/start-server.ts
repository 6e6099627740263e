import { type AtEnd, type ControlPlane, startControlPlane } from "@opensandbox/control-plane";
import type { Progress } from "@opensandbox/wire/worker/worker.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { openWorker, protectFromOutOfMemory } from "@opensandbox/worker";
import { collect, type CollectionReport } from "./collection/collect.ts";
import { Collector } from "./collection/collector.ts";
import { retentionOf } from "./collection/retention.ts";
import type { ServerConfig } from "./config.ts";
import { controlPlaneOptions } from "./control-plane-options.ts";
import { databaseLocation } from "./database-location.ts";
import { holdDatabase } from "./hold-database.ts";
import { storeFirstApiKey, storedApiKey } from "./keys/first-api-key.ts";
import { log } from "./log.ts";
import { serveConfiguredMetrics } from "./metrics/serve-configured.ts";
import { configuredTracer } from "./tracing/configured-tracer.ts";
import { workerMetrics } from "./metrics/worker-metrics.ts";
import type { Server } from "./server.ts";
import { publishServer } from "./server-file.ts";
import { surviveRejections } from "./survive-rejections.ts";
import { workerOptions } from "./worker-options.ts";

export interface StartServerOptions {
  /** The server lives for one command: on any free port of 127.0.0.1, with a key of its own, logging only errors. */
  readonly embedded: boolean;
  /** An image to prepare before the server is ready, so that the first create does not wait for it. */
  readonly image?: string;
  readonly onProgress: (progress: Progress) => void;
}

/**
 * Starts a server in this process. Only a node of a fleet loads the code of fleets.
 * @throws an error that names what this host lacks and the remedy; then nothing is left running
 */
export async function startServer(
  config: ServerConfig,
  { embedded, image, onProgress }: StartServerOptions,
  signal: AbortSignal,
): Promise<Server> {
  const mode = embedded ? "combined" : config.mode;
  if (mode === "server") return await (await import("./fleet/start-fleet-server.ts")).startFleetServer(config, signal);
  if (mode === "worker") return await (await import("./fleet/start-worker.ts")).startWorker(config, signal);
  await using undo = new AsyncDisposableStack();
  // An embedded server reports failures to its only caller.
  const quiet: typeof log = (level, message, fields) => {
    if (level === "error") log(level, message, fields);
  };
  const logTo = embedded ? quiet : log;
  const end = embedded ? undefined : undo.use(leaveOnSignal());
  if (!embedded) undo.use(surviveRejections());
  if (!embedded) protectFromOutOfMemory();
  // Held before the worker looks for machines to adopt: those of the previous server are free only then. A server for one
  // command uses the SQLite file, and its rows end with it.
  const database = embedded
    ? { location: databaseLocation({ ...config, databaseUrl: undefined }) }
    : undo.use(await holdDatabase(config, () => process.kill(process.pid, "SIGUSR2"), signal));
  const tracer = embedded ? undefined : undo.use(await configuredTracer(config));
  let collector: Collector | undefined;
  const opened = undo.use(
    await openWorker({
      ...workerOptions(config),
      // A server for one command needs no machine for a second one.
      ...(embedded ? { readyMachines: 0 } : {}),
      ephemeral: embedded,
      log: logTo,
      onTemplateMade: () => collector?.request(),
    }),
  );
  // The machines of sandboxes that are not stopped by then wait for the next server.
  if (!embedded) undo.defer(() => opened.release());
  if (image !== undefined) await opened.prepare(image, onProgress, signal);
  signal.throwIfAborted();
  const options = await controlPlaneOptions(embedded ? withoutTls(config) : config);
  const apiKey = embedded ? `osb_${randomHex(32)}` : config.apiKey;
  const controlPlane = undo.use(
    await startControlPlane(
      {
        ...options,
        worker: opened.worker,
        database: database.location,
        ...(embedded ? { listen: { host: "127.0.0.1", port: 0 }, ssh: undefined } : {}),
        ...(apiKey === undefined ? {} : { apiKey }),
        isWorkerAlive: (id) => opened.isWorkerAlive(id),
        ephemeral: embedded,
        ...(end === undefined ? {} : { atEnd: () => end.atEnd }),
        onImageBuilt: () => collector?.request(),
        log: logTo,
        tracer,
      },
      signal,
    ),
  );
  if (controlPlane.firstApiKey !== undefined) await storeFirstApiKey(config.dataDirectory, controlPlane.firstApiKey);
  const known = apiKey ?? controlPlane.firstApiKey ?? (await storedApiKey(config.dataDirectory));
  if (!embedded) {
    const published = { url: controlPlane.url, pid: process.pid, ...(known === undefined ? {} : { apiKey: known }) };
    undo.use(await publishServer(config.dataDirectory, published));
  }
  if (!embedded)
    collector = undo.use(new Collector({ collect: (stop) => collectFor(config, controlPlane, stop), log }));
  if (!embedded) {
    undo.use(
      await serveConfiguredMetrics(config, async () => [
        ...(await controlPlane.metrics()),
        ...workerMetrics(await opened.status(), await opened.worker.listSandboxes()),
      ]),
    );
  }
  const owned = undo.move();
  return {
    url: controlPlane.url,
    ...(known === undefined ? {} : { apiKey: known }),
    ...(controlPlane.firstApiKey === undefined ? {} : { firstApiKey: controlPlane.firstApiKey }),
    description: opened.worker.description,
    createSignInLink: () => controlPlane.createSignInLink(),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function withoutTls(config: ServerConfig): ServerConfig {
  const copy: { -readonly [Name in keyof ServerConfig]: ServerConfig[Name] } = { ...config };
  delete copy.tls;
  return copy;
}

async function collectFor(
  config: ServerConfig,
  controlPlane: ControlPlane,
  signal: AbortSignal,
): Promise<CollectionReport> {
  const { rows } = controlPlane;
  const sources = {
    directories: config,
    rows,
    removeUnwantedSnapshots: () => controlPlane.removeUnwantedSnapshots(),
  };
  return await collect(sources, { ...(await retentionOf(config)), dryRun: false, now: new Date(), signal });
}

/**
 * On SIGUSR2 the server exits as after SIGTERM, but its machines keep running and the next server adopts them. A newer
 * version replaces an older one this way.
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
