import type { BackedUp } from "@opensandbox/server";

/** The rows of a backup's database, for people. */
export function contentLines({ apiKeys, hibernated, checkpoints, migration }: BackedUp["contents"]): string[][] {
  return [
    ["database", migration],
    ["API keys", `${apiKeys}`],
    ["hibernated sandboxes", `${hibernated}`],
    ["checkpoints", `${checkpoints}`],
  ];
}
