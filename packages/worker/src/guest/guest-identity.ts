import { createHash } from "node:crypto";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";

/** The host name of images, and of sandboxes made from them. */
export const imageHostname = "sandbox";

/** The content of /etc/machine-id. Derived from the id, so that it is the same at every start. */
export function machineIdOf(id: string): string {
  return digestOf("machine-id", id).slice(0, 32);
}

/** The address of the sandbox's network device. */
export function macAddressOf(id: string): string {
  // 02 marks a locally administered address and leaves 40 bits. A vendor's prefix, such as QEMU's, leaves 24, which would
  // make two of a few thousand sandboxes equal.
  const bytes = digestOf("mac", id).slice(0, 10).match(/../g) ?? [];
  return ["02", ...bytes].join(":");
}

/** Undefined: the sandbox keeps its name, in memory or in /etc/hostname, which its user may have chosen. */
export function hostnameOf({ id, from }: Pick<StartSandbox, "id" | "from">): string | undefined {
  if (from.kind === "image") return imageHostname;
  return from.identity === "new" ? `${imageHostname}-${id.slice("sb-".length)}` : undefined;
}

function digestOf(what: string, id: string): string {
  return createHash("sha256").update(`${what} ${id}`).digest("hex");
}
