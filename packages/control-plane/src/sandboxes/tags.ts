import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import { moves, type SandboxState } from "#lifecycle/sandbox-lifecycle.ts";
import type { Sandbox } from "./sandbox.ts";

/** Replaces the tags of a sandbox in any state. */
export async function setTags(
  { stores, clock }: SandboxContext,
  { organizationId, id, tags }: { organizationId: string; id: SandboxId; tags: Readonly<Record<string, string>> },
): Promise<Sandbox> {
  await stores.sandboxes.get(organizationId, id);
  return stores.sandboxes.update(id, { tags, tagsUpdatedAt: new Date(clock.now()) });
}

export interface TagKey {
  readonly key: string;
  readonly sandboxCount: number;
  readonly valueCount: number;
}

/** The tag keys of all sandboxes that are not stopped, in alphabetical order. */
export async function listTagKeys({ stores }: SandboxContext, organizationId: string): Promise<TagKey[]> {
  const states = (Object.keys(moves) as SandboxState[]).filter((state) => state !== "stopped");
  const sandboxes = await stores.sandboxes.list(organizationId, states, Number.MAX_SAFE_INTEGER);
  const values = Map.groupBy(
    sandboxes.flatMap(({ tags }) => Object.entries(tags)),
    ([key]) => key,
  );
  return [...values]
    .map(([key, entries]) => ({
      key,
      sandboxCount: entries.length,
      valueCount: new Set(entries.map(([, value]) => value)).size,
    }))
    .toSorted((a, b) => (a.key < b.key ? -1 : 1));
}
