import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { Worker } from "@opensandbox/wire/worker/worker.ts";
import type { Database } from "#database/database.ts";
import type { Placement } from "#lifecycle/placement.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Metric } from "#metrics/metric.ts";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { Servers } from "../servers/servers.ts";

/** Opens the workers of a control plane that has several, on its database. */
export type OpenWorkers = (needs: {
  readonly database: Database;
  readonly clock: Clock;
  readonly log: Log;
  readonly servers: Servers;
}) => Promise<OpenedWorkers>;

export interface OpenedWorkers extends AsyncDisposable {
  readonly worker: Worker;
  readonly placement: Placement;
  /** Connects to the workers, and reconciles the rows with what they have. */
  start(context: SandboxContext): Promise<void>;
  /** Brings the row of a sandbox whose gate is held in line with its worker. @throws `unavailable` when that is silent */
  reconcile(id: SandboxId): Promise<void>;
  /** Reconciles every worker again and watches its machines, after the end of a server that did. */
  reconcileAll(): void;
  metrics(): Promise<readonly Metric[]>;
}
