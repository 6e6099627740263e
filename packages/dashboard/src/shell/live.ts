import { isSandboxError, type Client, type SandboxInfo } from "@opensandbox/sdk";
import { type QueryClient, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { allSandboxes, forgetSandbox, sandboxesKey, showSandbox } from "../sandboxes/queries.ts";

/** Events within this time are answered by one round of requests. */
const gatherMs = 120;
/** More changed sandboxes than this are read as a list. */
const maxSingle = 20;
const retryMs = 2000;
const [listKey] = sandboxesKey;

/**
 * Keeps what the page shows up to date by the server's events, while the page is visible. Returns whether the stream of
 * events is connected.
 */
export function useLive(): boolean {
  const client = useClient();
  const queries = useQueryClient();
  const maySee = useMay()("sandboxes:read");
  const [isConnected, setConnected] = useState(true);
  useEffect(() => {
    if (!maySee) return undefined;
    let stop = new AbortController();
    const start = (): void => {
      stop.abort();
      stop = new AbortController();
      if (document.visibilityState === "visible") void follow(client, queries, setConnected, stop.signal);
    };
    start();
    document.addEventListener("visibilitychange", start);
    return () => {
      document.removeEventListener("visibilitychange", start);
      stop.abort();
    };
  }, [client, queries, maySee]);
  return isConnected;
}

async function follow(
  client: Client,
  queries: QueryClient,
  onConnection: (isOpen: boolean) => void,
  signal: AbortSignal,
): Promise<void> {
  const changed = new Set<string>();
  let gathering: ReturnType<typeof setTimeout> | undefined;
  signal.addEventListener("abort", () => clearTimeout(gathering), { once: true });
  const gather = (id: string): void => {
    changed.add(id);
    gathering ??= setTimeout(() => {
      gathering = undefined;
      const ids = [...changed];
      changed.clear();
      void refresh(client, queries, ids, signal);
    }, gatherMs);
  };
  for (;;) {
    try {
      // A list that is being read is awaited, and an older one is read again.
      const { cursor: after } = await queries.fetchQuery({ ...allSandboxes(client), staleTime: 0 });
      onConnection(true);
      let isOpen = true;
      const onChange = (open: boolean): void => {
        onConnection(open);
        // Events that were missed come now. What has no events is read again.
        if (open && !isOpen)
          void queries.invalidateQueries({ predicate: ({ queryKey: [first] }) => first !== listKey });
        isOpen = open;
      };
      for await (const { sandboxId } of client.events.follow({ after }, signal, { onConnection: onChange })) {
        gather(sandboxId);
      }
    } catch {
      // Tried again below; the page says so meanwhile.
    }
    if (signal.aborted) return;
    onConnection(false);
    await new Promise((resolve) => setTimeout(resolve, retryMs));
    if (signal.aborted) return;
  }
}

/** Reads changed sandboxes again, and everything else that is shown of them. */
async function refresh(
  client: Client,
  queries: QueryClient,
  ids: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  for (const id of ids) void queries.invalidateQueries({ queryKey: ["sandbox", id] });
  if (ids.length > maxSingle) return await queries.invalidateQueries({ queryKey: sandboxesKey });
  await Promise.all(
    ids.map(async (id) => {
      const sandbox = await client.sandboxes.get(id, signal).catch((error: unknown) => {
        if (isSandboxError(error, "not_found")) return undefined;
        throw error;
      });
      if (sandbox === undefined || isGone(sandbox)) forgetSandbox(queries, id);
      else showSandbox(queries, sandbox);
    }),
  ).catch(() => queries.invalidateQueries({ queryKey: sandboxesKey }));
}

function isGone({ status }: SandboxInfo): boolean {
  return status === "stopped";
}
