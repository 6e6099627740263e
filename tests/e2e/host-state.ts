import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/**
 * What machines leave on a host while they run: processes, namespaces, cables, slots, and the files of their own below
 * `dataDirectory`. Two of these are compared to show that nothing is left behind.
 */
export function hostState(dataDirectory: string): object {
  return {
    processes: processesNaming(dataDirectory),
    namespaces: entries("/run/netns").filter((name) => name.startsWith("osb-")),
    links: entries("/sys/class/net").filter((name) => name.startsWith("osbv")),
    slots: entries("/run/opensandbox/slots"),
    machines: entries(join(dataDirectory, "machines")),
    journal: entries(join(dataDirectory, "journal")),
    workers: entries(join(dataDirectory, "workers")),
    sockets: readFileSync("/proc/net/unix", "utf8")
      .split("\n")
      .filter((line) => line.includes(dataDirectory)),
  };
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
        // It has ended meanwhile.
        return "";
      }
    })
    .filter((commandLine) => commandLine.includes(text));
}
