import { writeFileSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { setHostname as setKernelHostname } from "./libc.ts";
import { textOf } from "#system/text-of.ts";

const hostnameFile = "/etc/hostname";

/**
 * Delay of the write to the file, which only the next boot reads: a first write to a disk takes longer than all other
 * steps of a fork.
 */
const writeDownMs = 2000;

/** Names the machine. Images resolve any name of their own by nss-myhostname(8), which sudo relies on. */
export function setHostname(name: string): void {
  // Linux takes at most 64 bytes (HOST_NAME_MAX), DNS 63 a label.
  if (!/^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$/.test(name)) {
    throw new SandboxError("invalid_argument", `${JSON.stringify(name)} is not a valid host name`);
  }
  // This name was set before, and the user may have chosen another one since.
  if (name === given) return;
  setKernelHostname(name);
  given = name;
  setTimeout(writeDown, writeDownMs, name);
}

/** The name that was set last; a restored agent remembers it. */
let given: string | undefined;

function writeDown(name: string): void {
  try {
    if (textOf(hostnameFile).trim() === name) return;
    // The file is written in place, because a full disk has no room for a new one.
    writeFileSync(hostnameFile, `${name}\n`);
  } catch (error) {
    // The file belongs to the user, who may have made it immutable.
    console.error(`the host name ${name} could not be written to ${hostnameFile}: ${String(error)}`);
  }
}
