import { readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { SandboxError } from "@opensandbox/wire/errors.ts";

const sshDirectory = "/etc/ssh";

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
  rmSync("/var/lib/systemd/random-seed", { force: true });
  const keys = hostKeys();
  if (keys.length === 0) return;
  for (const key of keys) rmSync(join(sshDirectory, key));
  // Makes the kinds that are missing.
  await promisify(execFile)("ssh-keygen", ["-A"]);
}

function hostKeys(): readonly string[] {
  try {
    return readdirSync(sshDirectory).filter((name) => /^ssh_host_.*_key(\.pub)?$/.test(name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}
