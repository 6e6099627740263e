import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { execFile } from "node:child_process";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { bindFile } from "./kernel/libc.ts";

const sshDirectory = "/etc/ssh";
const randomSeedFile = "/var/lib/systemd/random-seed";
const machineIdFile = "/etc/machine-id";
/** A file of the kernel, which cannot be written to. */
const bootIdFile = "/proc/sys/kernel/random/boot_id";

/**
 * Files in memory that are mounted over the real ones: a new sandbox waits for this, and its first write to a disk would
 * take several times as long. Nothing has to persist, since the host sets the identity at every start.
 */
const overDirectory = "/run/sandbox-agent";

/** Sets the identifier of machine-id(5). */
export function setMachineId(id: string): void {
  if (!/^[0-9a-f]{32}$/.test(id)) {
    throw new SandboxError("invalid_argument", "a machine id must have 32 hexadecimal digits");
  }
  // Most machines wake with the identity they had.
  if (id === given) return;
  mountOver(machineIdFile, `${id}\n`);
  given = id;
}

/** The id that was set last; a restored agent remembers it. */
let given: string | undefined;

/** Mounts `content` over `file`. Its length must equal that of the content mounted before. */
function mountOver(file: string, content: string): void {
  const own = join(overDirectory, basename(file));
  if (existsSync(own)) {
    // One write over the old content: a reader finds either the old or the new.
    const descriptor = openSync(own, constants.O_WRONLY);
    try {
      writeSync(descriptor, content, 0, "latin1");
    } finally {
      closeSync(descriptor);
    }
  } else {
    mkdirSync(overDirectory, { recursive: true, mode: 0o700 });
    writeFileSync(own, content, { mode: 0o444 });
  }
  // A mount needs a file to be mounted over.
  if (!existsSync(file)) writeFileSync(file, "", { mode: 0o444 });
  if (readFileSync(file, "latin1") !== content) bindFile(own, file);
}

/** Renews the secrets that a fork must not share with the machine it was copied from. */
export async function renewSecrets(): Promise<void> {
  renewBootId();
  // A look at the file comes first, since it is usually missing.
  if (existsSync(randomSeedFile)) rmSync(randomSeedFile);
  const keys = hostKeys();
  if (keys.length === 0) return;
  for (const key of keys) rmSync(join(sshDirectory, key));
  // Generates the missing kinds of keys.
  await promisify(execFile)("/usr/bin/ssh-keygen", ["-A"]);
}

/** Renews the boot id, which the copied machine drew when it booted. */
function renewBootId(): void {
  // The id comes from the kernel, because the state of Node's generator is part of the copied memory.
  mountOver(bootIdFile, readFileSync("/proc/sys/kernel/random/uuid", "latin1"));
}

function hostKeys(): readonly string[] {
  if (!existsSync(sshDirectory)) return [];
  return readdirSync(sshDirectory).filter((name) => /^ssh_host_.*_key(\.pub)?$/.test(name));
}
