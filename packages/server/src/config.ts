import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** All that can be set from outside. */
export interface ServerConfig {
  readonly dataDirectory: string;
  readonly imagesDirectory: string;
  readonly host: string;
  readonly port: number;
  /** A fixed key in place of those in the database. */
  readonly apiKey?: string;
  readonly region: string;
  /** The domain that names of sandboxes' ports are made of. */
  readonly sandboxDomain: string;
  readonly hypervisor: "qemu" | "firecracker" | "fake";
  readonly accelerator: "auto" | "kvm" | "tcg";
  readonly network: "auto" | "tap" | "user";
  readonly qemuProgram: string;
  readonly debianMirror?: string;
  readonly defaultMemoryMib: number;
  readonly defaultVcpus: number;
  readonly maxSandboxes: number;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The only reader of the environment. The names are listed in the README.
 * @throws `invalid_argument` naming the variable that is wrong
 */
export function readConfig(env: Environment): ServerConfig {
  const dataDirectory = resolve(env["OPENSANDBOX_DATA_DIR"] || defaultDataDirectory(env));
  const hypervisor = oneOf(env, "OPENSANDBOX_VM_BACKEND", ["qemu", "firecracker", "fake"]);
  if (hypervisor === "fake" && env["OPENSANDBOX_ALLOW_FAKE"] !== "1") {
    throw new SandboxError(
      "invalid_argument",
      "OPENSANDBOX_VM_BACKEND=fake runs plain processes that are not isolated at all; it needs OPENSANDBOX_ALLOW_FAKE=1",
      undefined,
    );
  }
  oneOf(env, "OPENSANDBOX_MODE", ["combined"]);
  const apiKey = env["OPENSANDBOX_API_KEY"];
  const debianMirror = env["OPENSANDBOX_DEBIAN_MIRROR"];
  return {
    dataDirectory,
    imagesDirectory: resolve(env["OPENSANDBOX_IMAGES_DIR"] || join(dataDirectory, "images")),
    host: env["OPENSANDBOX_HOST"] || "127.0.0.1",
    port: whole(env, "OPENSANDBOX_PORT", 8080, 0, 65_535),
    ...(apiKey ? { apiKey } : {}),
    region: env["OPENSANDBOX_REGION"] || "local",
    sandboxDomain: env["OPENSANDBOX_SANDBOX_DOMAIN"] || "localhost",
    hypervisor,
    accelerator: oneOf(env, "OPENSANDBOX_ACCEL", ["auto", "kvm", "tcg"]),
    network: oneOf(env, "OPENSANDBOX_NETWORK", ["auto", "tap", "user"]),
    qemuProgram: env["OPENSANDBOX_QEMU_BIN"] || "qemu-system-x86_64",
    ...(debianMirror ? { debianMirror } : {}),
    defaultMemoryMib: whole(env, "OPENSANDBOX_DEFAULT_SANDBOX_MEMORY_MB", 1024, 256, 65_536),
    defaultVcpus: whole(env, "OPENSANDBOX_DEFAULT_SANDBOX_CPUS", 1, 1, 16),
    maxSandboxes: whole(env, "OPENSANDBOX_MAX_CAPACITY", 50, 1, 10_000),
  };
}

function defaultDataDirectory(env: Environment): string {
  if (process.getuid?.() === 0) return "/var/lib/opensandbox";
  return join(env["XDG_DATA_HOME"] || join(homedir(), ".local/share"), "opensandbox");
}

/** The first choice is the default. */
function oneOf<const Choice extends string>(
  env: Environment,
  name: string,
  choices: readonly [Choice, ...Choice[]],
): Choice {
  const value = env[name] || choices[0];
  const choice = choices.find((known) => known === value);
  if (choice === undefined) {
    throw new SandboxError("invalid_argument", `${name}=${value}: must be one of ${choices.join(", ")}`, undefined);
  }
  return choice;
}

function whole(env: Environment, name: string, otherwise: number, least: number, most: number): number {
  const value = env[name];
  if (value === undefined || value === "") return otherwise;
  const number = Number(value);
  if (!/^\d+$/.test(value) || number < least || number > most) {
    throw new SandboxError(
      "invalid_argument",
      `${name}=${value}: must be a whole number from ${least} to ${most}`,
      undefined,
    );
  }
  return number;
}
