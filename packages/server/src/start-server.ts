import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type AtEnd, type ControlPlane, startControlPlane } from "@opensandbox/control-plane";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Progress, WorkerDescription } from "@opensandbox/wire/worker/worker.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { openWorker, protectFromOutOfMemory } from "@opensandbox/worker";
import { collect, type CollectionReport } from "./collection/collect.ts";
import { Collector } from "./collection/collector.ts";
import { retentionOf } from "./collection/retention.ts";
import type { ServerConfig } from "./config.ts";
import { storeFirstApiKey, storedApiKey } from "./first-api-key.ts";
import { log } from "./log.ts";
import { publishServer } from "./server-file.ts";
import { workerOptions } from "./worker-options.ts";

/**
 * A control plane and a worker in one process. Disposing it hibernates every running sandbox; an embedded server deletes
 * them instead.
 */
export interface Server extends AsyncDisposable {
  readonly url: string;
  /** A valid key, if its plain text is known: the configured key, an embedded server's own, or the stored first key. */
  readonly apiKey?: string;
  /** The database's first key, if this start created it. The database stores only its hash. */
  readonly firstApiKey?: string;
  readonly description: WorkerDescription;
}

export interface StartServerOptions {
  /** The server lives for one command: on any free port of 127.0.0.1, with a key of its own, logging only errors. */
  readonly embedded: boolean;
  /** An image to prepare before the server is ready, so that the first create does not wait for it. */
  readonly image?: string;
  readonly onProgress: (progress: Progress) => void;
}

/**
 * Starts a server in this process.
 * @throws an error that names what this host lacks and the remedy; then nothing is left running
 */
export async function startServer(
  config: ServerConfig,
  { embedded, image, onProgress }: StartServerOptions,
  signal: AbortSignal,
): Promise<Server> {
  await using undo = new AsyncDisposableStack();
  // An embedded server reports failures to its only caller.
  const quiet: typeof log = (level, message, fields) => {
    if (level === "error") log(level, message, fields);
  };
  const logTo = embedded ? quiet : log;
  const end = embedded ? undefined : undo.use(leaveOnSignal());
  if (!embedded) undo.use(surviveRejections());
  if (!embedded) protectFromOutOfMemory();
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
        apiHostnames: config.apiHostnames,
        customDomains: { proof: config.domainProof },
        webhooks: { destinations: config.webhookDestinations },
        isWorkerAlive: (id) => opened.isWorkerAlive(id),
        defaults: {
          vcpus: config.defaultVcpus,
          memoryMib: config.defaultMemoryMib,
          workspaceMib: 20_480,
          idleTimeoutSeconds: 0,
        },
        limits: limitsFrom(config),
        ephemeral: embedded,
        ...(end === undefined ? {} : { atEnd: () => end.atEnd }),
        autosaveMs: config.autosaveSeconds * 1000,
        ready: () => ({ ready: true }),
        onImageBuilt: () => collector?.request(),
        log: logTo,
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
  const owned = undo.move();
  return {
    url: controlPlane.url,
    ...(known === undefined ? {} : { apiKey: known }),
    ...(controlPlane.firstApiKey === undefined ? {} : { firstApiKey: controlPlane.firstApiKey }),
    description: opened.worker.description,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
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

/** A limit of 0 is none. */
function limitsFrom(config: ServerConfig) {
  const orNone = (mib: number): number | undefined => (mib === 0 ? undefined : mib);
  return {
    maxSandboxes: config.maxSandboxes,
    organizationMemoryMib: orNone(config.maxOrganizationMemoryMib),
    memoryMib: orNone(config.maxMemoryMib),
    organizationDiskMib: orNone(config.maxOrganizationDiskMib),
    diskMib: orNone(config.maxDiskMib),
  };
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

/**
 * A rejection that nothing handles is a defect in one request: it is logged with its stack, and the server goes on. As a
 * promise settles after the code that made it, no state is left half changed.
 */
function surviveRejections(): Disposable {
  const report = (reason: unknown): void => {
    log("error", "defect: a rejection that nothing handles; the server goes on", describeError(reason));
  };
  process.on("unhandledRejection", report);
  return { [Symbol.dispose]: () => process.off("unhandledRejection", report) };
}

async function readTls({
  certFile,
  keyFile,
}: NonNullable<ServerConfig["tls"]>): Promise<{ cert: string; key: string }> {
  try {
    return { cert: await readFile(certFile, "utf8"), key: await readFile(keyFile, "utf8") };
  } catch (cause) {
    const message = `cannot read the TLS certificate or its key: ${(cause as Error).message}. Check OPENSANDBOX_TLS_CERT and OPENSANDBOX_TLS_KEY`;
    throw new SandboxError("unavailable", message, { cause });
  }
}
