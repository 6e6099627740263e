import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { useClient } from "../session/signed-in.tsx";
import { Page } from "../shell/page.tsx";
import { Empty, Failure, Loading, Table } from "../ui/controls.tsx";
import { mebibytes } from "../ui/format.ts";

/** The pools change by themselves, and have no events. */
const refreshMs = 5000;

/** The machines that the server keeps ready for a create. */
export function ReadyMachinesPage(): ReactNode {
  const client = useClient();
  const { data, error, refetch } = useQuery({
    queryKey: ["ready-machines"],
    queryFn: ({ signal }) => client.sandboxes.pool(signal),
    refetchInterval: refreshMs,
  });
  return (
    <Page
      title="Ready machines"
      lead={data === undefined ? undefined : `${data.ready} of ${data.wanted} machines wait for a create`}
    >
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Asking the worker" /> : null}
      {data?.templates.length === 0 ? (
        <Empty title="No machine is kept ready">
          <p>
            After the first sandboxes of an image, the server restores machines ahead of time, so that a create takes
            one at once.
          </p>
        </Empty>
      ) : null}
      {data === undefined || data.templates.length === 0 ? null : (
        <Table
          label="Pools of ready machines"
          rows={data.templates}
          keyOf={({ image, memoryMib, vcpus }) => `${image} ${memoryMib} ${vcpus}`}
          columns={[
            { title: "Image", cell: ({ image }) => <strong>{image}</strong> },
            { title: "Memory", isNumber: true, cell: ({ memoryMib }) => mebibytes(memoryMib) },
            { title: "vCPUs", isNumber: true, cell: ({ vcpus }) => vcpus },
            { title: "Ready", isNumber: true, cell: ({ ready }) => ready },
            { title: "Wanted", isNumber: true, cell: ({ wanted }) => wanted },
          ]}
        />
      )}
    </Page>
  );
}
