import { closeSync, openSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** With this device the kernel moves a TAP's packets, instead of QEMU. */
const vhostNetDevice = "/dev/vhost-net";

/** The device, open for QEMU to inherit. @throws `unavailable` when it has gone since the server looked for it */
export function openVhostNet(): number {
  try {
    return openSync(vhostNetDevice, "r+");
  } catch (cause) {
    const code = String((cause as NodeJS.ErrnoException).code);
    throw new SandboxError(
      "unavailable",
      `Cannot open ${vhostNetDevice} (${code}), which this server found at its start. Load the module vhost_net, or start the server again to run without it`,
      { cause },
    );
  }
}

/** Why machines do not use vhost; undefined when they can. Opening the device loads its module. */
export function whyNoVhostNet(): string | undefined {
  if (process.getuid?.() !== 0) return "only root gives machines a TAP";
  try {
    closeSync(openSync(vhostNetDevice, "r+"));
    return undefined;
  } catch (error) {
    return `${vhostNetDevice} does not open (${String((error as NodeJS.ErrnoException).code)})`;
  }
}
