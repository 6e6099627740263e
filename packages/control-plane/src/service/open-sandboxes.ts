import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import { CheckpointStore } from "#checkpoints/checkpoint-store.ts";
import { PatchStore } from "#checkpoints/patch-store.ts";
import { reconcileCheckpoints } from "#checkpoints/reconcile-checkpoints.ts";
import type { Database } from "#database/database.ts";
import { EventStore } from "#events/event-store.ts";
import { Heartbeats } from "#events/heartbeats.ts";
import { OrganizationStore } from "#organizations/organization-store.ts";
import { OrganizationNumbers } from "#organizations/organization-numbers.ts";
import { Snapshots } from "#snapshots/snapshots.ts";
import { Background } from "../background.ts";
import type { Clock } from "../clock.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Log } from "../log.ts";
import { SingleFlight } from "../single-flight.ts";
import { Activity } from "#lifecycle/activity.ts";
import { answerGuests } from "#sandboxes/answer-guests.ts";
import { Gates } from "#lifecycle/gates.ts";
import type { Placement } from "#lifecycle/placement.ts";
import type { SandboxContext, SandboxSettings, Shutdown } from "#lifecycle/sandbox-context.ts";
import { onlyServer, type Servers } from "../servers/servers.ts";
import type { SecretsOfSandboxes } from "#secrets/sandbox-secrets.ts";
import { SandboxStore } from "#sandboxes/sandbox-store.ts";
import { MeasuredUse } from "#usage/measured-use.ts";
import { UsageStore } from "#usage/usage-store.ts";
import { reconcileSandboxes } from "./reconcile-sandboxes.ts";

export interface OpenSandboxes {
  readonly worker: Worker;
  readonly placement: Placement;
  readonly database: Database;
  readonly clock: Clock;
  readonly log: Log;
  readonly settings: SandboxSettings;
  readonly secrets: SecretsOfSandboxes;
  isWorkerAlive(workerId: string): boolean;
  readonly shutdown: Shutdown;
  /** Default: this server shares its rows with no other one. */
  readonly servers?: Servers | undefined;
  /** Default: gates in the memory of this server. */
  readonly gates?: Gates | undefined;
}

/**
 * The context of all use cases, after the rows that exited servers left have been reconciled. With several servers, the
 * one on duty reconciles them (`takeOver`).
 */
export async function openSandboxes(options: OpenSandboxes): Promise<SandboxContext> {
  const { database, worker, clock, log, servers = onlyServer } = options;
  const events = new EventStore(database, clock);
  const sandboxes = new SandboxStore(database, events);
  const storeDeadline = (id: SandboxId, expiresAt: Date): void => {
    sandboxes.setExpiresAt(id, expiresAt).catch((error: unknown) => {
      log("warn", "cannot store an idle deadline", { sandbox: id, ...describeError(error) });
    });
  };
  const context: SandboxContext = {
    worker,
    placement: options.placement,
    stores: {
      sandboxes,
      checkpoints: new CheckpointStore(database, events),
      patches: new PatchStore(database),
      organizations: new OrganizationStore(database),
      organizationNumbers: new OrganizationNumbers(database),
      events,
      heartbeats: new Heartbeats(database),
      usage: new UsageStore(database),
      measuredUse: new MeasuredUse(database),
    },
    snapshots: new Snapshots(database, worker, log, servers.id),
    operations: {
      gates: options.gates ?? new Gates(),
      wakes: new SingleFlight(),
      captures: new SingleFlight(),
      watches: new Set(),
      background: new Background(log),
    },
    activity: new Activity(clock, storeDeadline, {
      renew:
        servers.id === undefined
          ? undefined
          : (id, slackMs) => sandboxes.renewIdleTimeout(id, new Date(clock.now()), slackMs),
    }),
    servers,
    clock,
    log,
    settings: options.settings,
    secrets: options.secrets,
    isWorkerAlive: (workerId) => options.isWorkerAlive(workerId),
    shutdown: options.shutdown,
  };
  if (servers.id !== undefined) return context;
  answerGuests(context);
  await Promise.all([reconcileSandboxes(context), reconcileCheckpoints(context)]);
  await context.snapshots.removeUnwanted();
  return context;
}
