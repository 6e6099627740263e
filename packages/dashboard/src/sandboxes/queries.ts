import type { Client, SandboxInfo } from "@opensandbox/sdk";
import { type QueryClient, queryOptions } from "@tanstack/react-query";

export const sandboxesKey = ["sandboxes"] as const;

const pageSize = 1000;

/** Every sandbox that is not stopped, newest first. */
export function allSandboxes(client: Client) {
  return queryOptions({
    queryKey: sandboxesKey,
    // Events keep the list up to date.
    staleTime: Infinity,
    async queryFn({ signal }) {
      const found: SandboxInfo[] = [];
      for (;;) {
        const after = found.at(-1)?.id;
        const query = { status: "all", limit: pageSize, ...(after === undefined ? {} : { after }) } as const;
        const page = await client.sandboxes.list(query, signal);
        found.push(...page);
        if (page.length < pageSize) return found;
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
  queries.setQueryData<SandboxInfo[]>(sandboxesKey, (list) => {
    if (list === undefined) return undefined;
    const at = list.findIndex(({ id }) => id === sandbox.id);
    if (at !== -1) return list.with(at, sandbox);
    const before = list.findIndex(({ createdAt }) => createdAt <= sandbox.createdAt);
    return list.toSpliced(before === -1 ? list.length : before, 0, sandbox);
  });
}

export function forgetSandbox(queries: QueryClient, id: string): void {
  queries.setQueryData<SandboxInfo[]>(sandboxesKey, (list) => list?.filter((each) => each.id !== id));
}
