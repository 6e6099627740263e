// Measures a machine's host memory before, during and after a hibernation, and the share of its guest's memory that it
// has in common with the template.
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { newSnapshotId, type SandboxId } from "@opensandbox/wire/ids.ts";
import { processesOf } from "../../packages/worker/src/host/kill-by-path.ts";
import { readEntries } from "../../packages/worker/src/machine/journal.ts";
import { startTestHost } from "../../packages/worker/src/testing/test-host.ts";

const never = new AbortController().signal;
await using host = await startTestHost();
// Another machine of the same template, so that the first one can share pages.
const other = await host.start();
const { id } = await host.start();
await host.shell(id, "head -c 50000000 /dev/urandom >/dev/shm/changed");

say(["", "all", "the guest's memory:", "resident", "of the template", "shared", "its own"]);
await show("before", id);
const snapshotId = newSnapshotId();
await host.worker.hibernateSandbox(id, snapshotId, never);
await show("asleep", id);
await host.start({ kind: "snapshot", snapshotId, identity: "same" }, { id });
await host.shell(id, "true");
await show("woken", id);
await show("the other one", other.id);

/** In MiB. */
async function show(when: string, id: SandboxId): Promise<void> {
  const entry = (await readEntries(host.dataDirectory)).find(({ sandbox }) => sandbox?.id === id);
  if (entry === undefined) return say([when, "0", "", "0", "", "0", "0"]);
  const directory = join(host.dataDirectory, "machines", entry.machineId);
  const [pid] = await processesOf(directory);
  const base = join(directory, entry.machine?.files.memoryBase ?? "");
  const all = figuresOf(await readFile(`/proc/${pid}/smaps_rollup`, "utf8"));
  const memory = figuresOf(mappingOf(await readFile(`/proc/${pid}/smaps`, "utf8"), base));
  // A hard link for the template, and one for each machine and snapshot that needs it.
  const { nlink, ino } = await stat(base);
  say([
    ...[when, mib(all["Pss"]), "", mib(memory["Rss"]), `inode ${ino}, ${nlink} names`],
    ...[mib(memory["Shared_Clean"]), mib(memory["Private_Dirty"])],
  ]);
}

function mappingOf(smaps: string, file: string): string {
  const parts = smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  return parts.find((part) => part.split("\n")[0]?.endsWith(file)) ?? "";
}

/** In KiB, by the names of proc_pid_smaps(5). */
function figuresOf(text: string): Readonly<Record<string, number>> {
  return Object.fromEntries(
    [...text.matchAll(/^(\w+):\s+(\d+) kB$/gm)].map(([, name = "", kib]) => [name, Number(kib)]),
  );
}

function mib(kib = 0): string {
  return (kib / 1024).toFixed(1);
}

function say(cells: readonly string[]): void {
  const widths = [14, 8, 20, 10, 24, 8, 8];
  process.stdout.write(`${cells.map((cell, index) => cell.padStart(widths[index] ?? 0)).join("")}\n`);
}
