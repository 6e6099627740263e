import { closeSync, openSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { vsockRefusal } from "./kernel/sockets.ts";

const device = "/dev/vhost-vsock";

/** Whether machines can have vsock devices that this process connects to. */
export type VsockFindings =
  | { readonly usable: true; readonly reason: string }
  | { readonly usable: false; readonly reason: string; readonly fix?: string };

/** The device of the kernel that carries vsock, open for a machine to inherit. @throws `not_supported` with what to do */
export function openVhostVsock(): number {
  try {
    return openSync(device, "r+");
  } catch (cause) {
    const code = String((cause as NodeJS.ErrnoException).code);
    const message = `Cannot open ${device} (${code}). ./opensandbox doctor names the remedy`;
    throw new SandboxError("not_supported", message, { cause });
  }
}

/** Opens the device, and binds a privileged port as a connection would. */
export function examineVsock(open: () => number = openVhostVsock, refusal = vsockRefusal): VsockFindings {
  try {
    closeSync(open());
  } catch (error) {
    const { code } = (error as Error).cause as NodeJS.ErrnoException;
    if (code === "ENOENT") {
      return {
        usable: false,
        reason: `this host has no ${device}`,
        fix: "load the kernel's module: modprobe vhost_vsock",
      };
    }
    return { usable: false, reason: `this process cannot open ${device} (${code})`, fix: "run as root" };
  }
  const refused = refusal();
  if (refused === undefined) return { usable: true, reason: `${device} works, and machines inherit it open` };
  if (refused !== "EACCES") return { usable: false, reason: `this kernel has no vsock sockets (${refused})` };
  const reason =
    "without root a server has no privileged vsock port, and a guest agent accepts no other: " +
    "any process of the host could connect to it";
  return { usable: false, reason, fix: "run as root" };
}
