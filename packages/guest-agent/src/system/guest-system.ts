import { readFileSync } from "node:fs";
import { commandCgroups } from "#system/cgroup.ts";
import { setClock } from "#system/clock.ts";
import { addEntropy } from "#system/entropy.ts";
import { setHostname } from "#system/hostname.ts";
import { powerOff, syncFileSystems } from "#system/libc.ts";
import { spareAgent } from "#system/oom-score.ts";
import type { System } from "#system/system.ts";
import { findUser } from "#system/users.ts";

/** The machine that the agent, as root, is the steward of. */
export function guestSystem(): System {
  return {
    findUser,
    takeCommandGroup: commandCgroups(),
    starting: spareAgent(),
    locate: (path) => path,
    // useradd of the images; a user's own image may lack the entry, but not the number.
    owner: { uid: 1000, gid: 1000 },
    mountPoints,
    addEntropy,
    setClock,
    setHostname,
    sync: syncFileSystems,
    powerOff,
  };
}

function mountPoints(): readonly string[] {
  // proc_pid_mountinfo(5): the fifth field, with blanks as octal numbers.
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .flatMap((line) => line.split(" ")[4] ?? [])
    .map((path) => path.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8))));
}
