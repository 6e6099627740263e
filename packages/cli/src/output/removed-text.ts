import type { Collected, CollectionReport } from "@opensandbox/server";
import { age } from "./age.ts";
import { megabytes } from "./megabytes.ts";
import { table } from "./table.ts";

/** A report of removals for people. */
export function removedText(
  { removed, bytes }: Pick<CollectionReport, "removed" | "bytes">,
  { dryRun }: { readonly dryRun: boolean },
): string {
  if (removed.length === 0) return "nothing to remove";
  const total = `${dryRun ? "would free" : "freed"} ${megabytes(bytes)}`;
  return `${table(["KIND", "NAME", "UNUSED", "SIZE", "WHY"], removed.map(rowOf))}\n${total}`;
}

function rowOf({ kind, name, image, lastUsed, bytes, reason }: Collected): string[] {
  const shown = image === undefined ? name : kind === "image" ? image : `${name} of ${image}`;
  return [kind, shown, lastUsed === undefined ? "-" : age(lastUsed), megabytes(bytes), reason];
}
