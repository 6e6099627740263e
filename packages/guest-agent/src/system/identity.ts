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
import { bindFile } from "#system/libc.ts";

const sshDirectory = "/etc/ssh";
const randomSeedFile = "/var/lib/systemd/random-seed";
const machineIdFile = "/etc/machine-id";
/** The kernel's own, which nothing can change. */
const bootIdFile = "/proc/sys/kernel/random/boot_id";

/**
 * What lies over them, by the same names, in memory: a new sandbox waits for them to be written, and its first write to
 * a disk would take several times as long. What is on the disk is of no use to anybody, since the host tells the machine
 * who it is whenever it starts.
 */
const overDirectory = "/run/sandbox-agent";

/** What the machine is called by programs that want something that never changes: machine-id(5). */
export function setMachineId(id: string): void {
  if (!/^[0-9a-f]{32}$/.test(id)) {
    throw new SandboxError("invalid_argument", "a machine id has 32 hexadecimal digits");
  }
  // Most machines wake up as who they were.
  if (id === given) return;
  layOver(machineIdFile, `${id}\n`);
  given = id;
}

/** The id that was given last, which a restored agent remembers. */
let given: string | undefined;

/** Lets whoever reads `file` find `content`, which must be as long as what was laid over it before. */
function layOver(file: string, content: string): void {
  const own = join(overDirectory, basename(file));
  if (existsSync(own)) {
    // In one piece over what is there: whoever reads it finds one content or the other.
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
  // Something to lie over must be there.
  if (!existsSync(file)) writeFileSync(file, "", { mode: 0o444 });
  if (readFileSync(file, "latin1") !== content) bindFile(own, file);
}

/** Makes anew what was random when it was made and must not be shared with the machine that this one is a copy of. */
export async function renewSecrets(): Promise<void> {
  renewBootId();
  // Looked for first: what is not there costs less so.
  if (existsSync(randomSeedFile)) rmSync(randomSeedFile);
  const keys = hostKeys();
  if (keys.length === 0) return;
  for (const key of keys) rmSync(join(sshDirectory, key));
  // Makes the kinds that are missing.
  await promisify(execFile)("/usr/bin/ssh-keygen", ["-A"]);
}

/** What tells this running machine from all others: the kernel drew it when the one that was copied booted. */
function renewBootId(): void {
  // Of the kernel, and not of this process: what Node draws from is a part of the memory that was copied.
  layOver(bootIdFile, readFileSync("/proc/sys/kernel/random/uuid", "latin1"));
}

function hostKeys(): readonly string[] {
  if (!existsSync(sshDirectory)) return [];
  return readdirSync(sshDirectory).filter((name) => /^ssh_host_.*_key(\.pub)?$/.test(name));
}
