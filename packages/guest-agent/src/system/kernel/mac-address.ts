import { SandboxError } from "@opensandbox/wire/errors.ts";
import { setDeviceAddress } from "./libc.ts";

/** Sets the address of the network device, if the machine has one. */
export function setMacAddress(address: Uint8Array): void {
  if (address.length !== 6) throw new SandboxError("invalid_argument", "a MAC address must have 6 bytes");
  // Most machines wake with the identity they had.
  if (given !== undefined && Buffer.compare(address, given) === 0) return;
  try {
    setDeviceAddress("eth0", address);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENODEV") throw error;
  }
  given = Buffer.from(address);
}

/** The address that was set last; a restored agent remembers it. */
let given: Buffer | undefined;
