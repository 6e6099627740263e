import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import type { CheckpointStore } from "#checkpoints/checkpoint-store.ts";
import type { PatchStore } from "#checkpoints/patch-store.ts";
import type { EventStore } from "#events/event-store.ts";
import type { Heartbeats } from "#events/heartbeats.ts";
import type { OrganizationStore } from "#organizations/organization-store.ts";
import type { OrganizationNumbers } from "#organizations/organization-numbers.ts";
import type { Snapshots } from "#snapshots/snapshots.ts";
import type { Background } from "../background.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { SingleFlight } from "../single-flight.ts";
import type { Activity } from "./activity.ts";
import type { Gates } from "./gates.ts";
import type { Limits } from "./limits.ts";
import type { Placement } from "./placement.ts";
import type { SecretsOfSandboxes } from "#secrets/sandbox-secrets.ts";
import type { Servers } from "../servers/servers.ts";
import type { SandboxStore } from "#sandboxes/sandbox-store.ts";
import type { MeasuredUse } from "#usage/measured-use.ts";
import type { UsageStore } from "#usage/usage-store.ts";

/** The dependencies of the use cases. */
export interface SandboxContext {
  /** The worker, or the workers of a fleet behind one interface. */
  readonly worker: Worker;
  readonly placement: Placement;
  /** Whether a worker still runs, in this process or another one on this host. */
  isWorkerAlive(workerId: string): boolean;
  readonly stores: Stores;
  readonly secrets: SecretsOfSandboxes;
  readonly snapshots: Snapshots;
  readonly operations: Operations;
  readonly activity: Activity;
  readonly settings: SandboxSettings;
  readonly servers: Servers;
  readonly clock: Clock;
  readonly log: Log;
  readonly shutdown: Shutdown;
}

/** The rows of the database, one store for each kind. */
export interface Stores {
  readonly sandboxes: SandboxStore;
  readonly checkpoints: CheckpointStore;
  readonly patches: PatchStore;
  readonly organizations: OrganizationStore;
  readonly organizationNumbers: OrganizationNumbers;
  readonly events: EventStore;
  readonly heartbeats: Heartbeats;
  readonly usage: UsageStore;
  readonly measuredUse: MeasuredUse;
}

/** The two stages of the control plane's end. */
export interface Shutdown {
  /** Aborts first, when the control plane ends: calls of clients end. */
  readonly ending: AbortSignal;
  /** Aborts at the deadline of the shutdown, to interrupt work without a caller. */
  readonly cutOff: AbortSignal;
}

/** Operations under way: they queue, share their result, or run in the background. */
export interface Operations {
  readonly gates: Gates;
  /** Wakes in progress, by hibernated sandbox. */
  readonly wakes: SingleFlight<SandboxId, void>;
  /** Captures in progress, by checkpoint id. */
  readonly captures: SingleFlight<string, void>;
  /** Machines whose end is awaited, by sandbox and generation. */
  readonly watches: Set<string>;
  readonly background: Background;
}

export interface SandboxSettings {
  readonly defaults: SandboxDefaults;
  /** The limits of the server. An organization may have its own: see {@link limitsOf}. */
  readonly limits: Limits;
  /** This control plane serves one command: its sandboxes end with it. */
  readonly ephemeral: boolean;
}

export interface SandboxDefaults {
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
  readonly idleTimeoutSeconds: number;
}
