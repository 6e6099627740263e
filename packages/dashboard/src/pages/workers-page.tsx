import type { WorkerInfo } from "@opensandbox/sdk";
import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { useClient } from "../session/signed-in.tsx";
import { Page } from "../shell/page.tsx";
import { Failure, Loading, Mono, State, Table, Tag } from "../ui/controls.tsx";
import { mebibytes, time } from "../ui/format.ts";
import styles from "./pages.module.css";

/** Workers have no events. */
const refreshMs = 5000;

/** The hosts that run machines, and what each has free. */
export function WorkersPage(): ReactNode {
  const client = useClient();
  const { data, error, refetch } = useQuery({
    queryKey: ["workers"],
    queryFn: ({ signal }) => client.workers.list(signal),
    refetchInterval: refreshMs,
  });
  return (
    <Page title="Workers" lead="Hosts that run machines, and what each has free">
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Asking the workers" /> : null}
      {data === undefined ? null : (
        <Table
          label="Workers"
          rows={data}
          keyOf={({ id }) => id}
          columns={[
            { title: "Worker", cell: ({ id }) => <Mono>{id}</Mono> },
            { title: "State", cell: (worker) => <WorkerState worker={worker} /> },
            { title: "Sandboxes", isNumber: true, cell: ({ sandboxes }) => sandboxes.toLocaleString() },
            { title: "Free memory", isNumber: true, cell: (worker) => <FreeMemory worker={worker} /> },
            {
              title: "Free disk",
              isNumber: true,
              cell: ({ freeDiskPercent }) => (freeDiskPercent === undefined ? "" : `${freeDiskPercent} %`),
            },
            { title: "Hypervisor", cell: ({ hypervisor }) => hypervisor },
            { title: "Processor", cell: ({ cpuModel }) => cpuModel ?? "" },
          ]}
        />
      )}
      <p className={styles["quiet"]}>
        <code>osb admin drain WORKER</code>, on the server's host, moves the sandboxes of a worker to others.
      </p>
    </Page>
  );
}

function WorkerState({ worker: { state, cordoned, draining, seenAt } }: { readonly worker: WorkerInfo }): ReactNode {
  return (
    <span title={seenAt === undefined ? undefined : `It answered at ${time(seenAt)}`}>
      <State of={state === "up" ? "running" : "error"} label={state} />{" "}
      {draining ? <Tag>draining</Tag> : cordoned ? <Tag>cordoned</Tag> : null}
    </span>
  );
}

function FreeMemory({ worker: { freeMemoryMib, totalMemoryMib } }: { readonly worker: WorkerInfo }): ReactNode {
  if (freeMemoryMib === undefined) return null;
  if (totalMemoryMib === undefined) return mebibytes(freeMemoryMib);
  return (
    <span className={styles["bar"]}>
      <meter aria-label="Free share of the memory" min={0} max={totalMemoryMib} value={freeMemoryMib} />
      {mebibytes(freeMemoryMib)} of {mebibytes(totalMemoryMib)}
    </span>
  );
}
