import { createHash } from "node:crypto";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";

/** The host name that images have, and with it whatever is made of an image. */
export const imageHostname = "sandbox";

/** What /etc/machine-id has. Pure, as all of this is: what is derived from the id is the same at each start. */
export function machineIdOf(id: string): string {
  return digestOf("machine-id", id).slice(0, 32);
}

/** The address of its network device. */
export function macAddressOf(id: string): string {
  // 02 is nobody's but who administers the network, and leaves 40 bits: with a vendor's prefix, as QEMU's, there are 24,
  // in which two of some thousand sandboxes would be the same.
  const bytes = digestOf("mac", id).slice(0, 10).match(/../g) ?? [];
  return ["02", ...bytes].join(":");
}

/** Undefined: the one that it has, in memory or in /etc/hostname, which may be of the user's own choice. */
export function hostnameOf({ id, from }: Pick<StartSandbox, "id" | "from">): string | undefined {
  if (from.kind === "image") return imageHostname;
  return from.identity === "new" ? `${imageHostname}-${id.slice(-8)}` : undefined;
}

function digestOf(what: string, id: string): string {
  return createHash("sha256").update(`${what} ${id}`).digest("hex");
}
