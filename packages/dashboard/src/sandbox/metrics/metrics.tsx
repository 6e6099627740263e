import type { SandboxInfo } from "@opensandbox/sdk";
import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { useClient } from "../../session/signed-in.tsx";
import { Empty, Failure, Loading, SelectField } from "../../ui/controls.tsx";
import { duration, mebibytes } from "../../ui/format.ts";
import Plot from "./plot.tsx";
import styles from "./metrics.module.css";

const windows = { "3600": "the last hour", "86400": "the last day", "604800": "the last 7 days" } as const;

const memorySteps = Array.from({ length: 16 }, (_, power) => 32 * 2 ** power);

/** The server adds a point a minute. */
const refreshMs = 60_000;

/** What a sandbox had over time, as plots. */
export default function Metrics({ sandbox: { id } }: { readonly sandbox: SandboxInfo }): ReactNode {
  const client = useClient();
  const [seconds, setSeconds] = useState<string>("3600");
  const { data, error, refetch } = useQuery({
    queryKey: ["sandbox", id, "usage", seconds],
    queryFn: ({ signal }) =>
      client.usage.ofSandbox(id, { from: new Date(Date.now() - Number(seconds) * 1000).toISOString() }, signal),
    refetchInterval: refreshMs,
  });
  const points = data?.points ?? [];
  const times = points.map(({ from }) => Date.parse(from) / 1000);
  return (
    <section className={styles["metrics"]} aria-label="Metrics">
      <div className={styles["window"]}>
        <SelectField
          label="Time"
          value={seconds}
          onChange={setSeconds}
          choices={Object.entries(windows).map(([value, label]) => ({ value, label }))}
        />
      </div>
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Reading the metrics" /> : null}
      {data !== undefined && points.length < 2 ? (
        <Empty title="Nothing to plot yet">
          <p>A point is added every minute.</p>
        </Empty>
      ) : null}
      {data === undefined || points.length < 2 ? null : (
        <>
          <figure>
            <figcaption>
              Memory: at most {mebibytes(data.peakMemoryMib)}. It ran for {duration(data.uptimeSeconds)}.
            </figcaption>
            <Plot
              label="Memory"
              times={times}
              values={points.map((point) => point.peakMemoryMib)}
              steps={memorySteps}
              format={mebibytes}
            />
          </figure>
          <figure>
            <figcaption>Running time of each interval</figcaption>
            <Plot
              label="Running"
              times={times}
              values={points.map((point) => point.uptimeSeconds)}
              format={(value) => `${Math.round(value)} s`}
            />
          </figure>
        </>
      )}
    </section>
  );
}
