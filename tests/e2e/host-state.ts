import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

/**
 * The traces of running machines on a host: processes, namespaces, virtual cables, slots, and their files below
 * `dataDirectory`. A comparison of two of these shows that nothing is left behind. Networks that a running server keeps
 * ready belong to no machine, and machines of other data directories are ignored.
 */
export function hostState(dataDirectory: string): object {
  const others = new Set([...spareSlots(), ...slotsElsewhere(dataDirectory)]);
  const isMachines = (name: string): boolean => !others.has(name.replace(/^\D+/, ""));
  return {
    processes: processesNaming(dataDirectory),
    namespaces: entries("/run/netns").filter((name) => name.startsWith("osb-") && isMachines(name)),
    links: entries("/sys/class/net").filter((name) => name.startsWith("osbv") && isMachines(name)),
    // Complete entries are named by numbers; the others are being written.
    slots: entries(slots).filter((name) => /^\d+$/.test(name) && isMachines(name)),
    machines: entries(join(dataDirectory, "machines")),
    journal: entries(join(dataDirectory, "journal")).filter((name) => name !== "lock"),
    workers: entries(join(dataDirectory, "workers")),
    sockets: readFileSync("/proc/net/unix", "utf8")
      .split("\n")
      .filter((line) => line.includes(dataDirectory)),
  };
}

const slots = "/run/opensandbox/slots";

/** Slots held by a process that locks a file, instead of by a machine. */
function spareSlots(): string[] {
  const locked = new Set(
    readFileSync("/proc/locks", "utf8")
      .split("\n")
      .map((line) => /:(\d+) \d+ EOF$/.exec(line)?.[1]),
  );
  return entries(slots).filter((name) => {
    try {
      const [owner = ""] = readFileSync(join(slots, name), "utf8").split("\n");
      return owner.endsWith(".owner") && locked.has(String(statSync(owner).ino));
    } catch {
      // The slot was released in the meantime.
      return true;
    }
  });
}

/** Slots of machines on another data directory. */
function slotsElsewhere(dataDirectory: string): string[] {
  return entries(slots).filter((name) => {
    const owner = ownerOf(name);
    return owner !== undefined && !owner.startsWith(`${dataDirectory}/`) && existsSync(owner);
  });
}

function ownerOf(slot: string): string | undefined {
  try {
    return readFileSync(join(slots, slot), "utf8").split("\n")[0];
  } catch {
    return undefined;
  }
}

function entries(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory).toSorted() : [];
}

function processesNaming(text: string): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
      } catch {
        // The process has ended in the meantime.
        return "";
      }
    })
    .filter((commandLine) => commandLine.includes(text));
}
