import { closeSync, constants, ftruncateSync, openSync, writeSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { setHostname as setKernelHostname } from "#system/libc.ts";
import { textOf } from "#system/text-of.ts";

/** Names the machine. Before anything else is asked of it, its files say so too. */
export function setHostname(name: string): void {
  // Linux takes at most 64 bytes (HOST_NAME_MAX), DNS 63 a label.
  if (!/^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$/.test(name)) {
    throw new SandboxError("invalid_argument", `${JSON.stringify(name)} is no host name`, undefined);
  }
  // It has been done, and a user may have chosen another one since.
  if (name === given) return;
  setKernelHostname(name);
  given = name;
  // The first write to a disk takes longer than all the rest, and the answer need not wait for it.
  setImmediate(writeDown, name);
}

/** The name that was given last, which a restored agent remembers. */
let given: string | undefined;

/** Keeps /etc/hosts and /etc/hostname in step: sudo looks its own host name up, and the next boot takes it from there. */
function writeDown(name: string): void {
  try {
    replace("/etc/hosts", (hosts) => withOwnName(hosts, name));
    replace("/etc/hostname", () => `${name}\n`);
  } catch (error) {
    // They are the user's, who may have made them such that nobody can change them.
    console.error(`the host name ${name} is not in its files: ${String(error)}`);
  }
}

/** The line of 127.0.1.1, Debian's for the machine's own name, with `name`. */
function withOwnName(hosts: string, name: string): string {
  const line = `127.0.1.1 ${name}`;
  return /^127\.0\.1\.1\s.*$/m.test(hosts)
    ? hosts.replace(/^127\.0\.1\.1\s.*$/m, line)
    : `${hosts}${hosts === "" || hosts.endsWith("\n") ? "" : "\n"}${line}\n`;
}

/**
 * In place: a new file that is renamed takes several times as long, and does not fit on a disk that is full. Also when
 * it says so already, as in a machine of an image: what templates have done once is faster in their copies.
 */
function replace(path: string, change: (text: string) => string): void {
  const before = textOf(path);
  const descriptor = openSync(path, constants.O_WRONLY | constants.O_CREAT, 0o644);
  try {
    const length = writeSync(descriptor, change(before));
    if (length < Buffer.byteLength(before)) ftruncateSync(descriptor, length);
  } finally {
    closeSync(descriptor);
  }
}
