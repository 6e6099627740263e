import type { SandboxUsage } from "@opensandbox/sdk";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type ReactNode, useMemo, useState } from "react";
import { useClient } from "../session/signed-in.tsx";
import { Page } from "../shell/page.tsx";
import { Empty, Failure, Loading, SelectField, Table } from "../ui/controls.tsx";
import styles from "./pages.module.css";

const days = {
  "1": "the last day",
  "7": "the last 7 days",
  "30": "the last 30 days",
  "90": "the last 90 days",
} as const;

/** What sandboxes had, times the time: the largest first. */
export function UsagePage(): ReactNode {
  const client = useClient();
  const [chosen, setChosen] = useState<string>("30");
  const from = useMemo(() => new Date(Date.now() - Number(chosen) * 86_400_000).toISOString(), [chosen]);
  const { data, error, refetch } = useQuery({
    queryKey: ["usage", from],
    queryFn: ({ signal }) => client.usage.bySandbox({ from, limit: 200 }, signal),
  });
  const max = Math.max(0, ...(data?.items ?? []).map(({ memoryGbSeconds }) => memoryGbSeconds));
  return (
    <Page title="Usage" lead="Allocated memory, processors and disk, times the time">
      <div className={styles["narrow"]}>
        <SelectField
          label="Time"
          value={chosen}
          onChange={setChosen}
          choices={Object.entries(days).map(([value, label]) => ({ value, label }))}
        />
      </div>
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Adding it up" /> : null}
      {data === undefined ? null : (
        <dl className={styles["totals"]}>
          <div>
            <dt>Memory</dt>
            <dd>{hours(data.total.memoryGbSeconds)} GB hours</dd>
          </div>
          <div>
            <dt>Processors</dt>
            <dd>{hours(data.total.vcpuSeconds)} vCPU hours</dd>
          </div>
          <div>
            <dt>Disk beyond 20 GB</dt>
            <dd>{hours(data.total.diskOverageGbSeconds)} GB hours</dd>
          </div>
        </dl>
      )}
      {data?.items.length === 0 ? <Empty title="No sandbox ran in this time" /> : null}
      {data === undefined || data.items.length === 0 ? null : (
        <Table
          label="Usage by sandbox"
          rows={data.items}
          keyOf={({ sandboxId }) => sandboxId}
          columns={[
            { title: "Sandbox", cell: (usage) => <Name usage={usage} /> },
            {
              title: "Memory",
              isNumber: true,
              cell: ({ memoryGbSeconds }) => (
                <span className={styles["bar"]}>
                  <meter aria-label="Share of the largest" min={0} max={max} value={memoryGbSeconds} />
                  {hours(memoryGbSeconds)} GB h
                </span>
              ),
            },
            { title: "Processors", isNumber: true, cell: ({ vcpuSeconds }) => `${hours(vcpuSeconds)} vCPU h` },
            {
              title: "Disk beyond 20 GB",
              isNumber: true,
              cell: ({ diskOverageGbSeconds }) => `${hours(diskOverageGbSeconds)} GB h`,
            },
          ]}
        />
      )}
    </Page>
  );
}

function Name({ usage: { sandboxId, alias, status } }: { readonly usage: SandboxUsage }): ReactNode {
  const name = alias === undefined || alias === "" ? sandboxId : alias;
  return status === undefined || status === "stopped" ? (
    name
  ) : (
    <Link to="/sandboxes/$id/$view" params={{ id: sandboxId, view: "timeline" }}>
      {name}
    </Link>
  );
}

function hours(seconds: number): string {
  return (seconds / 3600).toLocaleString(undefined, { maximumFractionDigits: 2 });
}
