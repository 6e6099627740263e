import type { Client, SandboxInfo } from "@opensandbox/sdk";
import { type QueryClient, queryOptions } from "@tanstack/react-query";

export const sandboxesKey = ["sandboxes"] as const;

const pageSize = 1000;

interface Listed {
  /** Every sandbox that is not stopped, newest first. */
  readonly sandboxes: readonly SandboxInfo[];
  /** The list knows every event before it. */
  readonly cursor: string;
}

export function allSandboxes(client: Client) {
  return queryOptions({
    queryKey: sandboxesKey,
    // Events keep the list up to date.
    staleTime: Infinity,
    async queryFn({ signal }): Promise<Listed> {
      // The cursor comes first, so that a change during the list's requests is not missed.
      const { cursor } = await client.events.list({ limit: 1 }, signal);
      const sandboxes: SandboxInfo[] = [];
      for (;;) {
        const after = sandboxes.at(-1)?.id;
        const query = { status: "all", limit: pageSize, ...(after === undefined ? {} : { after }) } as const;
        const page = await client.sandboxes.list(query, signal);
        sandboxes.push(...page);
        if (page.length < pageSize) return { sandboxes, cursor };
      }
    },
  });
}

export function oneSandbox(client: Client, id: string) {
  return queryOptions({ queryKey: ["sandbox", id, "info"], queryFn: ({ signal }) => client.sandboxes.get(id, signal) });
}

/** Shows a sandbox's new state without asking the server for the list. */
export function showSandbox(queries: QueryClient, sandbox: SandboxInfo): void {
  queries.setQueryData(["sandbox", sandbox.id, "info"], sandbox);
  changeList(queries, (list) => {
    const at = list.findIndex(({ id }) => id === sandbox.id);
    if (at !== -1) return list.with(at, sandbox);
    const before = list.findIndex(({ createdAt }) => createdAt <= sandbox.createdAt);
    return list.toSpliced(before === -1 ? list.length : before, 0, sandbox);
  });
}

export function forgetSandbox(queries: QueryClient, id: string): void {
  changeList(queries, (list) => list.filter((each) => each.id !== id));
}

function changeList(queries: QueryClient, change: (list: readonly SandboxInfo[]) => readonly SandboxInfo[]): void {
  queries.setQueryData<Listed>(sandboxesKey, (listed) =>
    listed === undefined ? undefined : { ...listed, sandboxes: change(listed.sandboxes) },
  );
}
