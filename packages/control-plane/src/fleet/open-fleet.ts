import type { Tracer } from "@opensandbox/wire/tracing.ts";
import type { OpenWorkers } from "../service/open-workers.ts";
import { Fleet } from "./fleet.ts";
import { memberMetrics } from "./member-metrics.ts";
import { RemoteWorker, type RemoteWorkerOptions } from "./remote/remote-worker.ts";
import type { LinkTuning } from "./remote/worker-link.ts";
import { type FleetApiOptions, serveFleetApi } from "./fleet-api.ts";

export type { Choice } from "./place.ts";
export type { Evacuated, Explanation, MemberReport } from "./fleet.ts";

export interface OpenFleetOptions extends Omit<FleetApiOptions, "log"> {
  /** The version of this software, for the logs of workers. */
  readonly version: string;
  readonly heartbeatMs?: number;
  readonly uploadsMs?: number;
  readonly sweepsMs?: number;
  /** How long a worker with a lease may be silent before its sandboxes continue elsewhere; 0: any time. Default: 0. */
  readonly lostAfterMs?: number;
  readonly fenceMs?: number;
  /** Absent: calls of workers are not traced. */
  readonly tracer?: Tracer | undefined;
  readonly tuning?: LinkTuning;
}

/** The workers of a fleet, for a control plane without a worker of its own. */
export function openFleet({
  version,
  heartbeatMs,
  uploadsMs,
  sweepsMs,
  lostAfterMs,
  fenceMs,
  tracer,
  tuning,
  ...api
}: OpenFleetOptions): OpenWorkers {
  return async ({ database, clock, log, servers }) => {
    await using undo = new AsyncDisposableStack();
    const { tls, token } = api;
    const linkTo = (url: string): RemoteWorkerOptions => ({
      ...{ url, log, tls, token, tracer, version },
      ...(tuning === undefined ? {} : { tuning }),
    });
    const fleet = undo.use(
      new Fleet({
        ...{ database, clock, log, servers, heartbeatMs, uploadsMs, sweepsMs, lostAfterMs, fenceMs },
        async greet(url) {
          using worker = await RemoteWorker.connect(linkTo(url));
          return { id: worker.id, description: worker.description };
        },
        workerAt: (url, greeting) => new RemoteWorker(linkTo(url), greeting),
      }),
    );
    const owned = undo.move();
    return {
      worker: fleet,
      placement: fleet,
      async start(context) {
        await fleet.start(context);
        const served = owned.use(await serveFleetApi(fleet, { ...api, log }));
        log("info", "workers can join", { url: served.url });
      },
      reconcile: (id) => fleet.reconcile(id),
      reconcileAll: () => fleet.reconcileAll(),
      metrics: async () => memberMetrics(await fleet.report()),
      [Symbol.asyncDispose]: () => owned.disposeAsync(),
    };
  };
}
