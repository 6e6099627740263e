import { closeSync, openSync, readFileSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { Reaper } from "#exec/reaper.ts";
import { freezeFileSystem, posixSpawn, stringTable, systemError, thawFileSystem } from "./libc.ts";

/**
 * A freeze ends by itself after this time, in milliseconds. A host captures in a fraction of it; a guest that has lost
 * its host runs on.
 */
const maxFreezeMs = 30_000;

/** Flushes, freezes and thaws the file systems of the guest that are on disks. */
export interface FileSystems {
  /** Settles when everything written so far is on the disks. */
  sync(): Promise<void>;
  /** Freezes all file systems and returns their mount points. After a failure none is frozen. */
  freeze(): Promise<readonly string[]>;
  thaw(): void;
}

export function fileSystems(): FileSystems {
  const reaper = new Reaper();
  let frozen: string[] = [];
  let deadline: NodeJS.Timeout | undefined;

  function thaw(): void {
    clearTimeout(deadline);
    const held = frozen;
    frozen = [];
    const failures: unknown[] = [];
    // Last frozen first: a file system in a file of another one was frozen before that one.
    for (const mountpoint of held.toReversed()) {
      try {
        onFileSystem(mountpoint, thawFileSystem);
      } catch (error) {
        // EINVAL: a program in the guest has thawed it already.
        if ((error as NodeJS.ErrnoException).code !== "EINVAL") failures.push(error);
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, "not every file system could be thawed");
  }

  // A predecessor of this agent may have died during a freeze.
  for (const { mountpoint } of onDisks(mounts())) {
    try {
      onFileSystem(mountpoint, thawFileSystem);
    } catch {
      // The file system was not frozen, as expected.
    }
  }

  return {
    sync: () => sync(reaper),
    async freeze() {
      // Another caller has frozen them, and only it may thaw.
      if (frozen.length > 0) throw cannotFreeze("they are frozen already");
      // Flushes first, because dirty pages would prolong the freeze.
      await sync(reaper);
      deadline = setTimeout(thaw, maxFreezeMs);
      try {
        // A later mount may be in a file of an earlier one.
        for (const { mountpoint } of onDisks(mounts()).toReversed()) {
          if (freezable(mountpoint)) frozen.push(mountpoint);
        }
        return frozen;
      } catch (cause) {
        thaw();
        throw cannotFreeze(String(cause));
      }
    },
    thaw,
  };
}

function cannotFreeze(why: string): SandboxError {
  return new SandboxError("wrong_state", `the file systems of the guest cannot be frozen: ${why}`, {
    resource: "sandbox",
    state: "running",
    allowed: [],
  });
}

/** Freezes a file system. False when it does not support that. */
function freezable(mountpoint: string): boolean {
  try {
    onFileSystem(mountpoint, freezeFileSystem);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EOPNOTSUPP") return false;
    throw error;
  }
}

function onFileSystem(mountpoint: string, act: (directory: number) => void): void {
  const directory = openSync(mountpoint, "r");
  try {
    act(directory);
  } finally {
    closeSync(directory);
  }
}

/** Runs sync in a process of its own, so that the agent answers meanwhile. */
async function sync(reaper: Reaper): Promise<void> {
  const nothing = openSync("/dev/null", "r+");
  try {
    const path = "/run/opensandbox/bin/busybox";
    const tables = { arguments: stringTable([path, "sync"]), environment: stringTable([]) };
    const pid = posixSpawn({
      ...tables,
      searchPath: "",
      cwd: "/",
      stdio: [nothing, nothing, nothing],
      cgroup: undefined,
    });
    if (pid < 0) throw systemError("posix_spawn", -pid);
    const { exitCode, signal } = await reaper.ended(pid);
    if (exitCode !== 0 || signal !== 0) throw new Error(`sync ended with ${exitCode}, signal ${signal}`);
  } finally {
    closeSync(nothing);
  }
}

interface Mount {
  readonly mountpoint: string;
  readonly device: string;
  readonly type: string;
  readonly source: string;
  readonly writable: boolean;
}

/** File systems whose answers come from a process or another host, and may not come at all. */
const answeredElsewhere = /^(fuse|nfs|cifs|smb|9p|ceph|afs|autofs|virtiofs)/;

/** Whether a call on this real path, or on one below it, may wait for a process or for another host. */
export function mayStall(path: string, all: readonly Pick<Mount, "mountpoint" | "type">[] = mounts()): boolean {
  const isInside = (inner: string, outer: string): boolean =>
    inner === outer || inner.startsWith(outer.endsWith("/") ? outer : `${outer}/`);
  const holder = all
    .filter(({ mountpoint }) => isInside(path, mountpoint))
    // Of two mounts at one place, the later one is visible.
    .reduce<(typeof all)[number] | undefined>((best, mount) => {
      return best !== undefined && best.mountpoint.length > mount.mountpoint.length ? best : mount;
    }, undefined);
  return all.some(
    (mount) => (mount === holder || isInside(mount.mountpoint, path)) && answeredElsewhere.test(mount.type),
  );
}

/** The mounts of the guest, in the order in which they were mounted. */
export function mounts(): readonly Mount[] {
  // proc_pid_mountinfo(5): id, parent, device, root, mount point, options, optional fields, "-", type, source, ...
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => {
      const [before = "", after = ""] = line.split(" - ");
      const [, , device = "", , mountpoint = "", options = ""] = before.split(" ");
      const [type = "", source = ""] = after.split(" ");
      return {
        device,
        mountpoint: mountpoint.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
          String.fromCharCode(Number.parseInt(octal, 8)),
        ),
        type,
        source,
        writable: options.split(",").includes("rw"),
      };
    });
}

/** One mount of each writable file system on a disk. */
function onDisks(all: readonly Mount[]): readonly Mount[] {
  const seen = new Set<string>();
  return all.filter(({ device, source, writable }) => {
    // A bind mount repeats a device; a file system without a device file, such as tmpfs, is in memory.
    if (!writable || !source.startsWith("/dev/") || seen.has(device)) return false;
    seen.add(device);
    return true;
  });
}
