import { sql } from "kysely";
import type { Database } from "#database/database.ts";
import type { Clock } from "../clock.ts";
import type { Metric } from "./metric.ts";

/** What the rows say, as of now. One short query for each kind of row. */
export async function rowMetrics(database: Database, clock: Clock): Promise<readonly Metric[]> {
  const { rows: sandboxes } = await sql<{ state: string; count: number }>`
    SELECT state, count(*) AS count FROM sandboxes WHERE state <> 'stopped' GROUP BY state`.execute(database);
  const { rows: uploads } = await sql<{ state: string; count: number }>`
    SELECT state, count(*) AS count FROM snapshot_uploads GROUP BY state`.execute(database);
  const { rows: failing } = await sql<{ count: number }>`
    SELECT count(*) AS count FROM snapshot_uploads WHERE state <> 'stored' AND attempts > 2`.execute(database);
  const { rows: unwanted } = await sql<{ count: number }>`
    SELECT count(*) AS count FROM unwanted_snapshots`.execute(database);
  const { rows: heard } = await sql<{ at: number | null }>`
    SELECT max(alive_at) AS at FROM worker_heartbeats`.execute(database);
  const gauge = (name: string, help: string, samples: Metric["samples"]): Metric => ({
    ...{ name, help, type: "gauge", samples },
  });
  const byState = (rows: readonly { readonly state: string; readonly count: number }[]): Metric["samples"] =>
    rows.map(({ state, count }) => ({ labels: { state }, value: count }));
  const at = heard[0]?.at ?? undefined;
  return [
    gauge("opensandbox_sandboxes", "Sandboxes that are not stopped, by state.", byState(sandboxes)),
    gauge("opensandbox_snapshot_uploads", "Snapshots of a fleet, by the state of their upload.", byState(uploads)),
    gauge("opensandbox_snapshot_uploads_failing", "Snapshots whose upload has failed more than twice.", [
      { value: failing[0]?.count ?? 0 },
    ]),
    gauge("opensandbox_unwanted_snapshots", "Snapshots that are to be removed.", [{ value: unwanted[0]?.count ?? 0 }]),
    ...(at === undefined
      ? []
      : [
          gauge("opensandbox_heartbeat_age_seconds", "Age of the newest heartbeat in the database.", [
            { value: (clock.now() - at) / 1000 },
          ]),
        ]),
  ];
}
