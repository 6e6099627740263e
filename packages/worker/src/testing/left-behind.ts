import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { cgroupsOf } from "#host/cgroups/cgroups.ts";
import { findCgroups } from "#host/cgroups/find-cgroups.ts";
import { processesOf } from "#host/kill-by-path.ts";
import { namesIn } from "#host/storage/names-in.ts";
import { slotsDirectory } from "#host/slots.ts";

export interface LeftBehind {
  readonly processes: readonly number[];
  readonly machines: readonly string[];
  readonly journal: readonly string[];
  /** Snapshots that were begun and not published. */
  readonly unfinished: readonly string[];
  /** A taken slot stands for its network namespace, devices and rules. */
  readonly slots: readonly string[];
  readonly cgroups: readonly string[];
}

/** Everything on this host that belongs to machines of `dataDirectory`, and its unfinished snapshots. */
export async function leftBehind(dataDirectory: string): Promise<LeftBehind> {
  const snapshots = await namesIn(join(dataDirectory, "snapshots"));
  return {
    processes: await processesOf(join(dataDirectory, "machines")),
    machines: await namesIn(join(dataDirectory, "machines")),
    journal: (await namesIn(join(dataDirectory, "journal"))).filter((name) => name !== "lock"),
    unfinished: snapshots.filter((name) => name.startsWith(".")),
    slots: await slotsOf(dataDirectory),
    cgroups: await cgroupNames(dataDirectory),
  };
}

/** The result of {@link leftBehind} when nothing is left. */
export const nothing: LeftBehind = { processes: [], machines: [], journal: [], unfinished: [], slots: [], cgroups: [] };

async function cgroupNames(dataDirectory: string): Promise<string[]> {
  const { hierarchies } = await findCgroups();
  const names = [...(await cgroupsOf(dataDirectory, hierarchies)).keys()];
  // The worker's own, while it lives.
  return names.filter((name) => !name.startsWith("services-"));
}

async function slotsOf(dataDirectory: string): Promise<string[]> {
  const taken: string[] = [];
  for (const name of await namesIn(slotsDirectory)) {
    // Other processes on this host take and return slots meanwhile.
    const owner = await readFile(join(slotsDirectory, name), "utf8").catch(() => "");
    if (owner.startsWith(`${dataDirectory}/`)) taken.push(name);
  }
  return taken;
}
