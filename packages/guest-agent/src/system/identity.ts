import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { execFile } from "node:child_process";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { bindFile } from "#system/libc.ts";

const sshDirectory = "/etc/ssh";
const bootIdFile = "/proc/sys/kernel/random/boot_id";
/** Lies over the kernel's own, which nothing can change. */
const ownBootIdFile = "/run/sandbox-agent/boot_id";

/** What the machine is called by programs that want something that never changes: machine-id(5). */
export function setMachineId(id: string): void {
  if (!/^[0-9a-f]{32}$/.test(id)) {
    throw new SandboxError("invalid_argument", "a machine id has 32 hexadecimal digits", undefined);
  }
  writeFileSync("/etc/machine-id.opensandbox", `${id}\n`, { mode: 0o444 });
  renameSync("/etc/machine-id.opensandbox", "/etc/machine-id");
}

/** Makes anew what was random when it was made and must not be shared with the machine that this one is a copy of. */
export async function renewSecrets(): Promise<void> {
  renewBootId();
  rmSync("/var/lib/systemd/random-seed", { force: true });
  const keys = hostKeys();
  if (keys.length === 0) return;
  for (const key of keys) rmSync(join(sshDirectory, key));
  // Makes the kinds that are missing.
  await promisify(execFile)("ssh-keygen", ["-A"]);
}

/** What tells this running machine from all others: the kernel drew it when the one that was copied booted. */
function renewBootId(): void {
  // Of the kernel, and not of this process: what Node draws from is a part of the memory that was copied.
  const id = readFileSync("/proc/sys/kernel/random/uuid", "latin1");
  mkdirSync(dirname(ownBootIdFile), { recursive: true, mode: 0o700 });
  // Written over in one piece, since whoever reads it must find one or the other.
  const own = openSync(ownBootIdFile, constants.O_WRONLY | constants.O_CREAT, 0o444);
  try {
    writeSync(own, id, 0, "latin1");
    if (statSync(bootIdFile).ino !== fstatSync(own).ino) bindFile(ownBootIdFile, bootIdFile);
  } finally {
    closeSync(own);
  }
}

function hostKeys(): readonly string[] {
  try {
    return readdirSync(sshDirectory).filter((name) => /^ssh_host_.*_key(\.pub)?$/.test(name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
