import type { Server } from "node:http";
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import { systemClock, type Clock } from "./clock.ts";
import type { Log } from "./log.ts";
import { regularly } from "./regularly.ts";
import { openDatabase } from "#database/database.ts";
import { serverKey } from "#database/server-key.ts";
import { defaultTiming, type ApiContext, type Timing } from "#http/api-context.ts";
import type { Tls } from "#http/make-server.ts";
import { buildServer, listen } from "#http/server.ts";
import { Builds } from "#images/builds.ts";
import type { ImageContext } from "#images/image-context.ts";
import { ImageStore } from "#images/image-store.ts";
import { reconcileImages } from "./images/reconcile-images.ts";
import { authenticator, makeDefaultOrganization, makeFirstApiKey } from "#organizations/api-keys.ts";
import { HostPorts } from "#previews/host-ports.ts";
import { PreviewStore } from "#previews/preview-store.ts";
import { PreviewTargets } from "#previews/preview-target.ts";
import { autosave } from "./service/autosave.ts";
import { endService, type AtEnd } from "./service/end-service.ts";
import type { SandboxContext, SandboxDefaults } from "./lifecycle/sandbox-context.ts";
import { openSandboxes } from "./service/open-sandboxes.ts";
import { sweepSandboxes } from "./service/sweep-sandboxes.ts";

export type { AtEnd } from "./service/end-service.ts";

export interface ControlPlaneOptions {
  readonly worker: Worker;
  /** Made where there is none; several processes may share it. */
  readonly databaseFile: string;
  /** Port 0: any that is free. */
  readonly listen: { readonly host: string; readonly port: number };
  /** The one key that is good. Absent: those of the database, and a first one is made where there is none. */
  readonly apiKey?: string;
  readonly region: string;
  readonly sandboxDomain: string;
  /** With it HTTPS is spoken, and no HTTP. */
  readonly tls?: Tls | undefined;
  /** Whether the worker of a row still lives, in whatever process. */
  isWorkerAlive(workerId: string): boolean;
  readonly defaults: SandboxDefaults;
  /** How many an organization may have at once. Default: 50. */
  readonly maxSandboxes?: number;
  ready(): { readonly ready: boolean; readonly reason?: string };
  /** It lives for one command: its sandboxes are ephemeral, and it takes nobody's over. Default: false. */
  readonly ephemeral?: boolean;
  /** What becomes of the sandboxes; asked when the end begins. Default: `hibernate`, or `stop` if it is ephemeral. */
  atEnd?(): AtEnd;
  /** Milliseconds for that; what has not been put away by then goes on, for the next server. Default: 5 minutes. */
  readonly endWithinMs?: number;
  /** How often guests are asked to write to their disks what they hold back, in milliseconds; 0: never. Default: 300000. */
  readonly autosaveMs?: number;
  readonly log: Log;
  /** What tests turn. */
  readonly tuning?: {
    readonly clock?: Clock;
    readonly timing?: Partial<Timing>;
    readonly sweepMs?: number;
    readonly farewellMs?: number;
  };
}

/**
 * Disposing it stops accepting, ends what is on its way, puts away the sandboxes of its worker and closes the database,
 * in that order.
 */
export interface ControlPlane extends AsyncDisposable {
  readonly url: string;
  /** In plain text, and only when it was just made: it cannot be read again. */
  readonly firstApiKey?: string;
}

// How long an idle timeout may be late.
const defaultSweepMs = 1000;
// What could not be removed at once can wait.
const removeUnwantedMs = 60_000;
// A port that leads nowhere any more hurts nobody.
const closeEndedPortsMs = 60_000;
const defaultEndWithinMs = 300_000;
const defaultAutosaveMs = 300_000;
// What a request that is broken off needs to tell its caller.
const defaultFarewellMs = 1000;

/** Starts the control plane; a start that fails leaves nothing. `unavailable`: port in use, database not usable. */
export async function startControlPlane(options: ControlPlaneOptions, signal?: AbortSignal): Promise<ControlPlane> {
  const { log, tuning = {} } = options;
  const clock = tuning.clock ?? systemClock;
  await using undo = new AsyncDisposableStack();

  const database = await openDatabase(options.databaseFile);
  undo.defer(() => database.destroy());
  signal?.throwIfAborted();
  await makeDefaultOrganization(database, clock.now());
  const firstApiKey = options.apiKey === undefined ? await makeFirstApiKey(database, clock.now()) : undefined;

  const ending = new AbortController();
  const cutOff = new AbortController();
  const sandboxes = await openSandboxes({
    worker: options.worker,
    database,
    clock,
    log,
    settings: {
      defaults: options.defaults,
      maxSandboxes: options.maxSandboxes ?? 50,
      ephemeral: options.ephemeral ?? false,
    },
    isWorkerAlive: (workerId) => options.isWorkerAlive(workerId),
    ending: ending.signal,
    cutOff: cutOff.signal,
  });
  undo.defer(async () => {
    const atEnd = options.atEnd?.() ?? (sandboxes.settings.ephemeral ? "stop" : "hibernate");
    const withinMs = atEnd === "stop" ? 0 : (options.endWithinMs ?? defaultEndWithinMs);
    using _ = abortAfter(withinMs, cutOff, "the server has ended");
    await endService(sandboxes, atEnd);
  });

  undo.use(regularly(tuning.sweepMs ?? defaultSweepMs, () => sweepSandboxes(sandboxes)));
  undo.use(regularly(removeUnwantedMs, () => sandboxes.snapshots.removeUnwanted()));
  const autosaveMs = options.autosaveMs ?? defaultAutosaveMs;
  if (autosaveMs > 0) {
    undo.use(autosave({ worker: options.worker, running: () => runningHere(sandboxes), everyMs: autosaveMs, log }));
  }

  const images: ImageContext = { sandboxes, images: new ImageStore(database), builds: new Builds() };
  await reconcileImages(images);
  undo.defer(() => images.builds.idle());

  const previews = new PreviewStore(database);
  const hostPorts = undo.use(new HostPorts(sandboxes));
  for (const sandbox of await sandboxes.store.listForwarded()) await hostPorts.open(sandbox);
  undo.use(regularly(closeEndedPortsMs, () => hostPorts.sweep()));

  const api: ApiContext = {
    sandboxes,
    images,
    authenticate: authenticator(database, options.apiKey),
    signingKey: await serverKey(database, "signed URLs"),
    previews,
    previewTargets: new PreviewTargets(previews),
    hostPorts,
    tls: options.tls,
    place: {
      region: options.region,
      sandboxDomain: options.sandboxDomain,
      networkNotEnforced: options.worker.description.network.notEnforced,
    },
    ready: () => options.ready(),
    timing: { ...defaultTiming, ...tuning.timing },
  };
  const app = await buildServer(api);
  const connections = openConnections(app.server);
  undo.defer(async () => {
    ending.abort(new SandboxError("unavailable", "the server is ending"));
    const closed = app.close();
    app.server.closeIdleConnections();
    await Promise.race([closed, sleep(tuning.farewellMs ?? defaultFarewellMs)]);
    for (const connection of connections) connection.destroy();
    await closed;
  });
  const url = await listen(app, options.listen);
  signal?.throwIfAborted();

  const owned = undo.move();
  return {
    url,
    ...(firstApiKey === undefined ? {} : { firstApiKey }),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Also those that have become WebSockets, which the server itself does not count any more. */
function openConnections(server: Server): ReadonlySet<Socket> {
  const connections = new Set<Socket>();
  server.on("connection", (connection: Socket) => {
    connections.add(connection);
    connection.once("close", () => connections.delete(connection));
  });
  return connections;
}

async function runningHere({ store, worker }: SandboxContext): Promise<SandboxId[]> {
  const held = await store.listHeld();
  return held.filter(({ state, workerId }) => state === "running" && workerId === worker.id).map(({ id }) => id);
}

/** Disposing it before its time takes it back. */
function abortAfter(milliseconds: number, controller: AbortController, message: string): Disposable {
  const timer = setTimeout(() => {
    controller.abort(new SandboxError("unavailable", message));
  }, milliseconds);
  return { [Symbol.dispose]: () => clearTimeout(timer) };
}
