import { closeSync, openSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { addEntropy as addEntropyTo } from "./libc.ts";

// The kernel's generator reseeds with 256 bits.
const minBytes = 32;

/** Makes the kernel's random numbers differ from those of all other machines restored from the same memory. */
export function addEntropy(bytes: Uint8Array): void {
  if (bytes.length < minBytes) {
    throw new SandboxError("invalid_argument", `entropy must have at least ${minBytes} bytes`);
  }
  const device = openSync("/dev/urandom", "r+");
  try {
    addEntropyTo(device, bytes);
  } finally {
    closeSync(device);
  }
}
