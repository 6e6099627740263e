import type { Server } from "node:http";
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import { systemClock, type Clock } from "./clock.ts";
import { describeError, type Log } from "./log.ts";
import { openDatabase } from "#database/database.ts";
import { defaultExecLimits, ExecResults, type ExecLimits } from "#execs/exec-results.ts";
import { defaultTiming, type ApiContext, type Timing } from "#http/api-context.ts";
import { buildServer, listen } from "#http/server.ts";
import { authenticator, makeDefaultOrganization, makeFirstApiKey } from "#organizations/api-keys.ts";
import { Activity } from "#sandboxes/activity.ts";
import { Gates } from "#sandboxes/gates.ts";
import type { SandboxContext, SandboxDefaults } from "#sandboxes/sandbox-context.ts";
import { SandboxStore } from "#sandboxes/sandbox-store.ts";
import { stopAllSandboxes } from "#sandboxes/stop-all-sandboxes.ts";
import { recordAbandoned, sweepSandboxes } from "#sandboxes/sweep-sandboxes.ts";

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
  /** Whether the worker of a row still lives, in whatever process. */
  isWorkerAlive(workerId: string): boolean;
  readonly defaults: SandboxDefaults;
  /** How many an organization may have at once. Default: 50. */
  readonly maxSandboxes?: number;
  ready(): { readonly ready: boolean; readonly reason?: string };
  readonly log: Log;
  /** What tests turn. */
  readonly tuning?: {
    readonly clock?: Clock;
    readonly timing?: Partial<Timing>;
    readonly execLimits?: Partial<ExecLimits>;
    readonly sweepMs?: number;
  };
}

/**
 * Disposing it stops accepting, ends what is on its way, stops the sandboxes of its worker and closes the database, in
 * that order.
 */
export interface ControlPlane extends AsyncDisposable {
  readonly url: string;
  /** In plain text, and only when it was just made: it cannot be read again. */
  readonly firstApiKey?: string;
}

// How long an idle timeout may be late.
const defaultSweepMs = 1000;
// What a request that is broken off needs to tell its caller.
const farewellMs = 1000;

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
  const store = new SandboxStore(database);
  const sandboxes: SandboxContext = {
    worker: options.worker,
    store,
    gates: new Gates(),
    activity: new Activity(clock, (id, expiresAt) => {
      store.setExpiresAt(id, expiresAt).catch((error: unknown) => {
        log("warn", "a deadline could not be stored", { sandbox: id, ...describeError(error) });
      });
    }),
    clock,
    log,
    defaults: options.defaults,
    maxSandboxes: options.maxSandboxes ?? 50,
    isWorkerAlive: (workerId) => options.isWorkerAlive(workerId),
    ending: ending.signal,
  };
  await recordAbandoned(sandboxes);
  undo.defer(() => stopAllSandboxes(sandboxes));

  const sweep = sweepRegularly(sandboxes, tuning.sweepMs ?? defaultSweepMs);
  undo.use(sweep);

  const api: ApiContext = {
    sandboxes,
    execs: new ExecResults({ ...defaultExecLimits, ...tuning.execLimits }, clock),
    authenticate: authenticator(database, options.apiKey),
    place: { region: options.region, sandboxDomain: options.sandboxDomain },
    ready: () => options.ready(),
    timing: { ...defaultTiming, ...tuning.timing },
  };
  const app = await buildServer(api);
  const connections = openConnections(app.server);
  undo.defer(async () => {
    ending.abort(new SandboxError("unavailable", "the server is ending", undefined));
    const closed = app.close();
    app.server.closeIdleConnections();
    await Promise.race([closed, sleep(farewellMs)]);
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

/** Never two sweeps at once; disposing waits for the one on its way. */
function sweepRegularly(sandboxes: SandboxContext, everyMs: number): AsyncDisposable {
  let sweeping: Promise<void> | undefined;
  const timer = setInterval(() => {
    sweeping ??= sweepSandboxes(sandboxes).finally(() => {
      sweeping = undefined;
    });
  }, everyMs);
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer);
      await sweeping;
    },
  };
}
