import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { System } from "./system.ts";

/** Distributions by the fields ID and VERSION_ID of os-release(5). */
const supported = ["debian 12", "debian 13", "ubuntu 24.04"];

/** @throws `not_supported` on a host whose packages or services the steps do not know */
export async function requireSupported(system: System): Promise<void> {
  const fields = (await system.read("/etc/os-release")) ?? "";
  const field = (name: string): string => new RegExp(`^${name}="?([^"\n]*)"?$`, "m").exec(fields)?.[1] ?? "";
  const found = `${field("ID")} ${field("VERSION_ID")}`.trim();
  if (!supported.includes(found)) {
    const name = field("PRETTY_NAME") || "another system";
    throw new SandboxError(
      "not_supported",
      `this host runs ${name}; the set-up knows Debian 12 and 13, and Ubuntu 24.04`,
    );
  }
  // sd_booted(3)
  if (await system.exists("/run/systemd/system")) return;
  throw new SandboxError(
    "not_supported",
    "systemd does not run on this host, as in most containers; start the server with 'osb up' instead",
  );
}
