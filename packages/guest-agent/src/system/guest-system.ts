import { commandCgroups, fitMemory, limitCommands, readMemory } from "./kernel/cgroup.ts";
import { stepClock } from "./kernel/clock.ts";
import { addEntropy } from "./kernel/entropy.ts";
import { fileSystems, mayStall, mounts } from "./kernel/file-systems.ts";
import { setHostname } from "./kernel/hostname.ts";
import { growWorkspace } from "./kernel/grow-workspace.ts";
import { trustAuthority } from "#system/authority.ts";
import { setMachineId, renewSecrets } from "#system/identity.ts";
import { liftProcessLimit, limitOpenFiles, writeClock } from "./kernel/libc.ts";
import { setMacAddress } from "./kernel/mac-address.ts";
import { setProcessors } from "./kernel/processors.ts";
import { spareAgent } from "./kernel/oom-score.ts";
import type { System } from "#system/system.ts";
import { findOwner, findUser } from "#system/users.ts";

/** The real machine, which the agent administers as root. */
export function guestSystem(): System {
  // Commands inherit the limits. The kernel gives process 1 a limit of 4096, which package managers and servers exceed.
  // Node raises its own soft limit to the hard one, and some programs loop over every descriptor up to their limit.
  limitOpenFiles(65_536, 1_048_576);
  // The kernel allows a user half of the threads that fit into memory.
  liftProcessLimit();
  return {
    findUser,
    findOwner,
    takeCommandGroup: commandCgroups(),
    fitMemory,
    memory: readMemory,
    limitCommands,
    setProcessors,
    growWorkspace,
    starting: spareAgent(),
    locate: (path) => path,
    // The user `sandbox` of the images; an image of a user may lack the entry.
    owner: { uid: 1000, gid: 1000 },
    mayStall: (path) => mayStall(path),
    mountPoints: () => mounts().map(({ mountpoint }) => mountpoint),
    addEntropy,
    setClock: writeClock,
    stepClock,
    setMacAddress,
    setHostname,
    setMachineId,
    renewSecrets,
    trustAuthority,
    fileSystems: fileSystems(),
  };
}
