import { writeFileSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { setHostname as setKernelHostname } from "#system/libc.ts";
import { textOf } from "#system/text-of.ts";

const hostnameFile = "/etc/hostname";

/**
 * The first write to a disk takes longer than all the rest that a fork does, and nobody waits for this one: it is for the
 * next boot alone.
 */
const writeDownMs = 2000;

/** Names the machine. Images resolve whatever name it has (nss-myhostname(8)), for sudo, which looks its own up. */
export function setHostname(name: string): void {
  // Linux takes at most 64 bytes (HOST_NAME_MAX), DNS 63 a label.
  if (!/^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$/.test(name)) {
    throw new SandboxError("invalid_argument", `${JSON.stringify(name)} is no host name`);
  }
  // It has been done, and a user may have chosen another one since.
  if (name === given) return;
  setKernelHostname(name);
  given = name;
  setTimeout(writeDown, writeDownMs, name);
}

/** The name that was given last, which a restored agent remembers. */
let given: string | undefined;

function writeDown(name: string): void {
  try {
    if (textOf(hostnameFile).trim() === name) return;
    // In place: a new file does not fit on a disk that is full.
    writeFileSync(hostnameFile, `${name}\n`);
  } catch (error) {
    // It is the user's, who may have made it such that nobody can change it.
    console.error(`the host name ${name} is not in ${hostnameFile}: ${String(error)}`);
  }
}
