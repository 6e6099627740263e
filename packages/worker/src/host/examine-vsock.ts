import { closeSync, openSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { vsockRefusal } from "./kernel/sockets.ts";

const device = "/dev/vhost-vsock";

/** Whether machines can have vsock devices by which they connect to this process. */
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

/** Opens the device and a listener, as a machine and its connection do. `root`: whether this process is root. */
export function examineVsock({
  open = openVhostVsock,
  refusal = vsockRefusal,
  root = process.getuid?.() === 0,
}: VsockProbes = {}): VsockFindings {
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
  if (refused !== undefined) return { usable: false, reason: `this kernel has no vsock sockets (${refused})` };
  if (root) return { usable: true, reason: `${device} works, and machines inherit it open` };
  return { usable: false, reason: "without root a machine has no vsock address of its own", fix: "run as root" };
}

interface VsockProbes {
  readonly open?: () => number;
  readonly refusal?: typeof vsockRefusal;
  readonly root?: boolean;
}
