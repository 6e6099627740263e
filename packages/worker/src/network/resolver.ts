import { readFile } from "node:fs/promises";
import { isIPv4 } from "node:net";

// systemd-resolved's stub listens on the host's loopback only; what it asks stands in the second file.
const files = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/** The host's name server that a guest can be sent to, or undefined when it has none beyond its own loopback. */
export async function hostResolver(): Promise<string | undefined> {
  for (const file of files) {
    const text = await readFile(file, "utf8").catch(() => "");
    const servers = [...text.matchAll(/^nameserver\s+(\S+)/gm)].map(([, server]) => server ?? "");
    const usable = servers.find((server) => isIPv4(server) && !server.startsWith("127."));
    if (usable !== undefined) return usable;
  }
  return undefined;
}
