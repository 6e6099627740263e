import { SandboxError } from "@opensandbox/wire/errors.ts";
import { setDeviceAddress } from "#system/libc.ts";

/** Gives the machine's network device its address; a machine without one is left as it is. */
export function setMacAddress(address: Uint8Array): void {
  if (address.length !== 6) throw new SandboxError("invalid_argument", "a MAC address has 6 bytes");
  // Most machines wake up as who they were.
  if (given !== undefined && Buffer.compare(address, given) === 0) return;
  try {
    setDeviceAddress("eth0", address);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENODEV") throw error;
  }
  given = Buffer.from(address);
}

/** The address that was given last, which a restored agent remembers. */
let given: Buffer | undefined;
