import { renameSync, writeFileSync } from "node:fs";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { setHostname as setKernelHostname } from "#system/libc.ts";
import { textOf } from "#system/text-of.ts";

/** Names the machine, and keeps /etc/hostname and /etc/hosts in step: sudo looks its own host name up. */
export function setHostname(name: string): void {
  // Linux takes at most 64 bytes (HOST_NAME_MAX), DNS 63 a label.
  if (!/^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$/.test(name)) {
    throw new SandboxError("invalid_argument", `${JSON.stringify(name)} is no host name`, undefined);
  }
  // It has been done, and a user may have chosen another one since.
  if (name === given) return;
  setKernelHostname(name);
  replace("/etc/hostname", () => `${name}\n`);
  replace("/etc/hosts", (hosts) => withOwnName(hosts, name));
  given = name;
}

/** The name that was given last, which a restored agent remembers. */
let given: string | undefined;

/** The line of 127.0.1.1, Debian's for the machine's own name, with `name`. */
function withOwnName(hosts: string, name: string): string {
  const line = `127.0.1.1 ${name}`;
  return /^127\.0\.1\.1\s.*$/m.test(hosts)
    ? hosts.replace(/^127\.0\.1\.1\s.*$/m, line)
    : `${hosts}${hosts === "" || hosts.endsWith("\n") ? "" : "\n"}${line}\n`;
}

function replace(path: string, change: (text: string) => string): void {
  const before = textOf(path);
  const after = change(before);
  if (after === before) return;
  writeFileSync(`${path}.opensandbox`, after, { mode: 0o644 });
  renameSync(`${path}.opensandbox`, path);
}
