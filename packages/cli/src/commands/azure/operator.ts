import { readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { homedir } from "node:os";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Context } from "../../context.ts";

/** The operator's public key. @throws `invalid_argument` for a file that has none, or without a file */
export async function readPublicKey(file: string | undefined, env: Context["host"]["env"]): Promise<string> {
  const directory = join(env["HOME"] || homedir(), ".ssh");
  const candidates =
    file === undefined ? ["id_ed25519.pub", "id_rsa.pub"].map((name) => join(directory, name)) : [file];
  for (const candidate of candidates) {
    const key = await readFile(candidate, "utf8").catch(() => undefined);
    if (key === undefined) continue;
    if (/^(ssh-ed25519|ssh-rsa) \S+/.test(key)) return key.trim();
    throw new SandboxError("invalid_argument", `${candidate} is not a public key of ssh; Azure takes ed25519 and rsa`);
  }
  const message = `there is no public key ${candidates.join(" or ")}: make one with 'ssh-keygen -t ed25519', or pass --ssh-key`;
  throw new SandboxError("invalid_argument", message);
}

/** The address by which Azure sees this host. @throws `unavailable` when the service that knows it does not answer */
export async function ownAddress(signal: AbortSignal): Promise<string> {
  const service = "https://api.ipify.org";
  try {
    const response = await fetch(service, { signal: AbortSignal.any([signal, AbortSignal.timeout(10_000)]) });
    const address = (await response.text()).trim();
    if (isIP(address) !== 0) return address;
    throw new Error(`it answered with status ${response.status}`);
  } catch (cause) {
    const message = `cannot find the public address of this host at ${service}: ${(cause as Error).message}. Pass --ssh-from`;
    throw new SandboxError("unavailable", message, { cause });
  }
}
