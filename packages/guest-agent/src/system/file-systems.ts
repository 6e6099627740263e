import { closeSync, openSync, readFileSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { Reaper } from "#exec/reaper.ts";
import { freezeFileSystem, posixSpawn, stringTable, systemError, thawFileSystem } from "#system/libc.ts";

/**
 * How long the guest stands still when nobody thaws it, in milliseconds. The host captures within a fraction of it;
 * a guest whose host has gone goes on.
 */
const maxFreezeMs = 30_000;

/** Holds back every write to every file system that keeps its content on a disk, and lets go again. */
export interface FileSystems {
  /** Settles when all that was written is on the disks. */
  sync(): Promise<void>;
  /** The file systems that are held back now: all of them, or it rejects and none is. */
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
    // The last one first: a file system that lies in a file of another one is held back before that.
    for (const mountpoint of held.toReversed()) {
      try {
        onFileSystem(mountpoint, thawFileSystem);
      } catch (error) {
        // Somebody in the guest was faster.
        if ((error as NodeJS.ErrnoException).code !== "EINVAL") failures.push(error);
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, "not every disk could be let go");
  }

  // An agent that died while it held the disks back has left them so.
  for (const { mountpoint } of onDisks(mounts())) {
    try {
      onFileSystem(mountpoint, thawFileSystem);
    } catch {
      // It is not frozen, which is how it should be.
    }
  }

  return {
    sync: () => sync(reaper),
    async freeze() {
      // Whoever holds them has not let go, and this must not do it for them.
      if (frozen.length > 0) throw cannotHold("they are held still already");
      // Whatever is still to be written now keeps the guest from writing for as long as it takes.
      await sync(reaper);
      deadline = setTimeout(thaw, maxFreezeMs);
      try {
        // What is mounted later may lie in what was mounted before.
        for (const { mountpoint } of onDisks(mounts()).toReversed()) {
          if (freezable(mountpoint)) frozen.push(mountpoint);
        }
        return frozen;
      } catch (cause) {
        thaw();
        throw cannotHold(String(cause));
      }
    },
    thaw,
  };
}

function cannotHold(why: string): SandboxError {
  return new SandboxError("wrong_state", `the guest's disks cannot be held still: ${why}`, {
    resource: "sandbox",
    state: "running",
    allowed: [],
  });
}

/** Freezes, unless the file system does not know how to. */
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

/** A process of its own waits for the disks, so that the agent can answer meanwhile. */
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
  readonly source: string;
  readonly writable: boolean;
}

/** Those of the guest, in the order in which they were mounted. */
export function mounts(): readonly Mount[] {
  // proc_pid_mountinfo(5): id, parent, device, root, mount point, options, optional fields, "-", type, source, ...
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => {
      const [before = "", after = ""] = line.split(" - ");
      const [, , device = "", , mountpoint = "", options = ""] = before.split(" ");
      const [, source = ""] = after.split(" ");
      return {
        device,
        mountpoint: mountpoint.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
          String.fromCharCode(Number.parseInt(octal, 8)),
        ),
        source,
        writable: options.split(",").includes("rw"),
      };
    });
}

/** One mount of each file system that keeps its content on a disk and can be written to. */
function onDisks(all: readonly Mount[]): readonly Mount[] {
  const seen = new Set<string>();
  return all.filter(({ device, source, writable }) => {
    // A bind mount is the same device again; what has no device file, such as tmpfs, is in memory.
    if (!writable || !source.startsWith("/dev/") || seen.has(device)) return false;
    seen.add(device);
    return true;
  });
}
