import { join } from "node:path";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import type { NetworkAttachment, Restoring } from "#hypervisor/hypervisor.ts";
import { requireCompatible, specOf } from "#machine/start-machine.ts";
import type { SnapshotManifest } from "#snapshots/manifest.ts";
import { SnapshotStore } from "#snapshots/snapshot-store.ts";
import { chooseHypervisor, type WorkerOptions } from "./open-worker.ts";

export interface SnapshotProblem {
  readonly id: string;
  /** Why this version cannot use the snapshot on this host. */
  readonly problem: string;
}

/**
 * Finds the snapshots of a data directory that this version of the program cannot restore on this host: its format is
 * unknown, it is damaged, or its memory needs another machine. Starts no machine and changes nothing.
 */
export async function examineSnapshots(options: WorkerOptions): Promise<SnapshotProblem[]> {
  const store = new SnapshotStore(join(options.dataDirectory, "snapshots"));
  const ids = await store.ids();
  // The server of a fleet has neither snapshots nor a hypervisor.
  if (ids.length === 0) return [];
  const { hypervisor } = await chooseHypervisor(options);
  const problems: SnapshotProblem[] = [];
  for (const id of ids) {
    try {
      const found = await store.find(id);
      if (found !== undefined) requireRestorable(found.manifest, hypervisor.restoring);
    } catch (error) {
      problems.push({ id, problem: asSandboxError(error).message });
    }
  }
  return problems;
}

/** @throws `incompatible` when this host cannot use the memory of the snapshot */
function requireRestorable(manifest: SnapshotManifest, restoring: Restoring | undefined): void {
  const { memory, shape, files, network } = manifest;
  // A snapshot without memory boots from its disks.
  if (memory === undefined || restoring === undefined) return;
  // A guest does not see where the files of its machine are.
  const directory = "/";
  const attachments = () =>
    files.disks.map(({ name, writable }) => ({ name, base: "base", layers: writable ? ["top"] : [] }));
  const resources = { user: undefined, cgroup: undefined, network: attachmentOf(network) };
  requireCompatible(specOf(shape, directory, { files, attachments }, resources, restoring), memory, restoring);
}

function attachmentOf(kind: SnapshotManifest["network"]): NetworkAttachment {
  if (kind !== "tap") return { kind };
  const openTap = (): never => {
    throw new Error("no machine is started");
  };
  return { kind, namespace: "", device: "", openTap };
}
