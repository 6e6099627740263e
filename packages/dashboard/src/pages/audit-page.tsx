import { useInfiniteQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { useClient } from "../session/signed-in.tsx";
import { Page } from "../shell/page.tsx";
import { Button, Empty, Failure, Loading, Mono, Table } from "../ui/controls.tsx";
import { time } from "../ui/format.ts";

const pageSize = 100;

/** Calls that changed something or were refused, newest first. */
export function AuditPage(): ReactNode {
  const client = useClient();
  const { data, error, refetch, hasNextPage, fetchNextPage, isFetchingNextPage } = useInfiniteQuery({
    queryKey: ["audit"],
    initialPageParam: undefined as string | undefined,
    queryFn: ({ pageParam: cursor, signal }) => client.audit.list({ limit: pageSize, cursor }, signal),
    getNextPageParam: ({ nextCursor }) => nextCursor,
  });
  const entries = data?.pages.flatMap((page) => page.entries);
  return (
    <Page title="Audit log" lead="Calls that changed something: who, from where, with which answer">
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {entries === undefined && error === null ? <Loading what="Reading the log" /> : null}
      {entries?.length === 0 ? <Empty title="Nothing has been changed" /> : null}
      {entries === undefined || entries.length === 0 ? null : (
        <Table
          label="Audit log"
          rows={entries}
          keyOf={({ id }) => id}
          columns={[
            { title: "Time", isNumber: true, cell: ({ at }) => time(at) },
            { title: "Who", cell: ({ actor }) => actor },
            { title: "Action", cell: ({ action }) => <strong>{action}</strong> },
            { title: "Resource", cell: ({ resource, path }) => <Mono>{resource ?? path}</Mono> },
            { title: "Answer", isNumber: true, cell: ({ status }) => status },
            { title: "Address", isNumber: true, cell: ({ address }) => <Mono>{address}</Mono> },
          ]}
        />
      )}
      {hasNextPage ? (
        <div>
          <Button disabled={isFetchingNextPage} onClick={() => void fetchNextPage()}>
            Older entries
          </Button>
        </div>
      ) : null}
    </Page>
  );
}
