import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { processesOf } from "#host/kill-by-path.ts";
import { slotsDirectory } from "#host/slots.ts";

export interface LeftBehind {
  readonly processes: readonly number[];
  readonly machines: readonly string[];
  readonly journal: readonly string[];
  /** Snapshots that were begun. */
  readonly unfinished: readonly string[];
  /** A slot names a network namespace, its devices and rules: who has the slot has those. */
  readonly slots: readonly string[];
}

/** Everything on this host that belongs to machines below `dataDirectory`, or that making snapshots has left there. */
export async function leftBehind(dataDirectory: string): Promise<LeftBehind> {
  const snapshots = await namesIn(join(dataDirectory, "snapshots"));
  return {
    processes: await processesOf(join(dataDirectory, "machines")),
    machines: await namesIn(join(dataDirectory, "machines")),
    journal: (await namesIn(join(dataDirectory, "journal"))).filter((name) => name !== "lock"),
    unfinished: snapshots.filter((name) => name.startsWith(".")),
    slots: await slotsOf(dataDirectory),
  };
}

/** What {@link leftBehind} finds where nothing is left. */
export const nothing: LeftBehind = { processes: [], machines: [], journal: [], unfinished: [], slots: [] };

async function slotsOf(dataDirectory: string): Promise<string[]> {
  const taken: string[] = [];
  for (const name of await namesIn(slotsDirectory)) {
    // Others on this host take slots and give them back meanwhile.
    const owner = await readFile(join(slotsDirectory, name), "utf8").catch(() => "");
    if (owner.startsWith(`${dataDirectory}/`)) taken.push(name);
  }
  return taken;
}

async function namesIn(directory: string): Promise<string[]> {
  return existsSync(directory) ? await readdir(directory) : [];
}
