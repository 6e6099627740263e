import { mkdtemp, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { findServer as findPublished } from "@opensandbox/server/server-file.ts";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { dataDirectory as defaultDataDirectory, roles } from "../host/options.ts";
import { readRecord } from "../host/record.ts";
import { waitForServer } from "../host/service/wait-for-server.ts";
import { settingsFile } from "../host/steps/settings.ts";
import type { System } from "../host/system.ts";
import { unitNames } from "../host/units.ts";
import { fetchPackage } from "./fetch-package.ts";

export interface Upgrade {
  readonly system: System;
  /** The directory of the installed program. */
  readonly root: string;
  /** The file or the URL of the package. */
  readonly from: string;
  readonly sha256: string | undefined;
  readonly onStep: (step: string) => void;
  /** The server that runs on a data directory. Absent: the one that has published its address there. */
  readonly findServer?: (directory: string) => Promise<{ readonly pid: number } | undefined>;
  /** The wait between two looks at the new server. Absent: 500 ms. */
  readonly pollMs?: number;
}

export interface Upgraded {
  /** Versions. */
  readonly before: string;
  readonly after: string;
  /** The file with the database of the earlier version. Undefined: there was no database in a file. */
  readonly copy: string | undefined;
  /** Whether a service ran before, which then runs again. */
  readonly isServing: boolean;
}

/** How the program came to this host. */
type Installation =
  | { readonly kind: "debian" }
  /** Each version has a directory below `programs`. */
  | { readonly kind: "archive"; readonly programs: string };

/**
 * Replaces the installed version, without ending machines.
 * @throws `not_supported` where no package is installed, `incompatible` when the new version could not use the data of
 * this one
 */
export async function upgradeHost(upgrade: Upgrade, signal: AbortSignal): Promise<Upgraded> {
  const { system, root, onStep } = upgrade;
  const installation = await installationOf(system, root);
  const work = await mkdtemp("/var/tmp/.opensandbox-upgrade-");
  try {
    onStep("fetching the package");
    const { file, sha256 } = await fetchPackage({ ...upgrade, directory: work }, signal);
    onStep("unpacking the package");
    const next = await unpack(system, installation, file, join(work, "content"));
    const before = await versionOf(system, root);
    const after = await versionOf(system, next);
    const settings = await settingsOf(system);
    onStep(`checking the data with version ${after}`);
    await requireUsable(system, { root, next, settings, after });
    onStep("copying the database");
    const copy = await copyDatabase(system, { root, settings, before });
    signal.throwIfAborted();
    const service = await activeService(system);
    onStep(`installing version ${after}`);
    const directory = valueOf(settings, "OPENSANDBOX_DATA_DIR") ?? defaultDataDirectory;
    try {
      await install(system, { installation, root, next, file, name: `${after}-${sha256.slice(0, 12)}` });
      if (service !== undefined) {
        onStep("waiting for the new server");
        await waitForRestart(upgrade, service, directory, signal);
      }
    } catch (error) {
      if (signal.aborted || service === undefined) throw error;
      throw unserved(error, { before, after, copy, directory, unit: service.unit });
    }
    return { before, after, copy, isServing: service !== undefined };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function installationOf(system: System, root: string): Promise<Installation> {
  const { code } = await system.ask("dpkg-query", "--search", `${root}/opensandbox`);
  if (code === 0) return { kind: "debian" };
  if (/^\/opt\/opensandbox\/[^/]+$/.test(root)) return { kind: "archive", programs: dirname(root) };
  throw new SandboxError(
    "not_supported",
    `${root} was installed neither as a Debian package nor by install.sh: update it as you installed it, then run its 'osb host setup'`,
  );
}

/** Unpacks the program of a package and returns its directory. */
async function unpack(system: System, { kind }: Installation, file: string, target: string): Promise<string> {
  const [ending, what] = kind === "debian" ? [".deb", "a Debian package"] : [".tar.gz", "an archive of install.sh"];
  if (!file.endsWith(ending)) {
    throw new SandboxError(
      "invalid_argument",
      `this host has ${what}, so an upgrade needs a file *${ending}, not ${file}`,
    );
  }
  if (kind === "debian") {
    await system.change("dpkg-deb", "--extract", file, target);
    return join(target, "usr/lib/opensandbox");
  }
  await system.change("mkdir", target);
  await system.change("tar", "-xzf", file, "-C", target, "--strip-components=1", "--no-same-owner");
  await system.change("chmod", "755", target);
  return target;
}

async function versionOf(system: System, root: string): Promise<string> {
  const text = await system.change(`${root}/opensandbox`, "version", "--json");
  return (JSON.parse(text) as { readonly version: string }).version;
}

/** The settings of the service, as assignments. */
async function settingsOf(system: System): Promise<readonly string[]> {
  const lines = ((await system.read(settingsFile)) ?? "").split("\n").filter((line) => /^OPENSANDBOX_\w+=/.test(line));
  const directory = lines.some((line) => line.startsWith("OPENSANDBOX_DATA_DIR="))
    ? []
    : [`OPENSANDBOX_DATA_DIR=${defaultDataDirectory}`];
  return [...directory, ...lines];
}

interface Versions {
  readonly root: string;
  readonly settings: readonly string[];
}

function osb(root: string, settings: readonly string[], ...words: readonly string[]) {
  return ["env", ...settings, `${root}/opensandbox`, ...words] as const;
}

/** @throws `incompatible` when the next version could not use the database or a snapshot that this version can use */
async function requireUsable(
  system: System,
  { root, next, settings, after }: Versions & { readonly next: string; readonly after: string },
): Promise<void> {
  if (await hasDatabase(system, settings)) {
    const { code, stderr } = await system.ask(...osb(next, settings, "admin", "migrate", "--dry-run"));
    if (code !== 0) {
      throw new SandboxError(
        "incompatible",
        `version ${after} cannot use the database of this host: ${lastLine(stderr)}`,
        { reason: "format" },
      );
    }
  }
  const lost = new Set((await problemsWith(system, root, settings)).map(({ id }) => id));
  const stranded = (await problemsWith(system, next, settings)).filter(({ id }) => !lost.has(id));
  if (stranded.length === 0) return;
  const list = stranded.map(({ id, problem }) => `${id} (${problem})`).join(", ");
  const message = `version ${after} cannot restore ${stranded.length} snapshots of this host: ${list}. Nothing was changed`;
  throw new SandboxError("incompatible", message, { reason: "format" });
}

async function problemsWith(
  system: System,
  root: string,
  settings: readonly string[],
): Promise<readonly { readonly id: string; readonly problem: string }[]> {
  const { code, stdout, stderr } = await system.ask(...osb(root, settings, "admin", "snapshots", "--json"));
  try {
    return JSON.parse(stdout) as { readonly id: string; readonly problem: string }[];
  } catch (cause) {
    const message = `cannot check the snapshots with ${root}/opensandbox, which exited with ${code}: ${lastLine(stderr)}`;
    throw new SandboxError("unavailable", message, { cause });
  }
}

async function copyDatabase(
  system: System,
  { root, settings, before }: Versions & { readonly before: string },
): Promise<string | undefined> {
  if (settings.some((line) => line.startsWith("OPENSANDBOX_DATABASE_URL="))) return undefined;
  if (!(await hasDatabase(system, settings))) return undefined;
  const now = new Date().toISOString().replaceAll(/[:.]/g, "-");
  const copy = join(valueOf(settings, "OPENSANDBOX_DATA_DIR") ?? "", "upgrades", `from-${before}-${now}.sqlite`);
  await system.change(...osb(root, settings, "admin", "backup", "--database-only", copy));
  return copy;
}

async function hasDatabase(system: System, settings: readonly string[]): Promise<boolean> {
  if (valueOf(settings, "OPENSANDBOX_DATABASE_URL") !== undefined) return true;
  return await system.exists(join(valueOf(settings, "OPENSANDBOX_DATA_DIR") ?? "", "opensandbox.sqlite"));
}

function valueOf(settings: readonly string[], name: string): string | undefined {
  return settings.findLast((line) => line.startsWith(`${name}=`))?.slice(name.length + 1);
}

interface Service {
  readonly unit: string;
  /** The process of the server before the upgrade. */
  readonly pid: string;
}

async function activeService(system: System): Promise<Service | undefined> {
  for (const role of roles) {
    const unit = unitNames[role];
    if ((await system.ask("systemctl", "is-active", unit)).code === 0) return { unit, pid: await pidOf(system, unit) };
  }
  return undefined;
}

async function pidOf(system: System, unit: string): Promise<string> {
  return (await system.ask("systemctl", "show", "--property=MainPID", "--value", unit)).stdout.trim();
}

interface Install {
  readonly installation: Installation;
  readonly root: string;
  readonly next: string;
  readonly file: string;
  /** The directory of an archive's version. */
  readonly name: string;
}

async function install(system: System, { installation, root, next, file, name }: Install): Promise<void> {
  if (installation.kind === "debian") await system.change("dpkg", "--install", file);
  const launcher = `${installation.kind === "debian" ? root : await moveIn(system, installation.programs, next, name)}/opensandbox`;
  // The unit and the command name the program, and the next version may have other ones. The set-up restarts the service.
  if ((await readRecord(system)) !== undefined) await system.change(launcher, "host", "setup");
  else if (installation.kind === "archive") await relink(system, `${root}/opensandbox`, launcher);
}

/** Gives an unpacked version its place. A version that has been there before stays as it is. */
async function moveIn(system: System, programs: string, next: string, name: string): Promise<string> {
  const target = join(programs, name);
  if (await system.exists(target)) return target;
  // The other directory may be on another file system, where a move is a copy.
  const unfinished = `${target}.unfinished`;
  await system.change("rm", "-rf", unfinished);
  await system.change("mv", "--no-target-directory", next, unfinished);
  await system.change("mv", "--no-target-directory", unfinished, target);
  return target;
}

async function relink(system: System, from: string, to: string): Promise<void> {
  const command = "/usr/local/bin/osb";
  if ((await system.linkTarget(command)) !== from) return;
  await system.remove(command);
  await system.link(command, to);
}

/** @throws as {@link waitForServer} */
async function waitForRestart(
  { system, findServer = findPublished, pollMs }: Pick<Upgrade, "system" | "findServer" | "pollMs">,
  { unit, pid }: Service,
  directory: string,
  signal: AbortSignal,
): Promise<void> {
  const find = async (): Promise<true | undefined> => {
    const { code } = await system.ask("systemctl", "is-active", unit);
    const now = await pidOf(system, unit);
    if (code !== 0 || now === pid || now === "0") return undefined;
    // A worker publishes no address.
    return unit === unitNames.worker || `${(await findServer(directory))?.pid ?? pid}` !== pid ? true : undefined;
  };
  const wait = { system, unitName: unit, find, ...(pollMs === undefined ? {} : { pollMs }) };
  await waitForServer(wait, signal);
}

/** The error of an upgrade whose new version does not serve, with the way back. */
function unserved(
  error: unknown,
  {
    before,
    after,
    copy,
    directory,
    unit,
  }: Pick<Upgraded, "before" | "after" | "copy"> & {
    readonly directory: string;
    readonly unit: string;
  },
): SandboxError {
  const { code, message } = asSandboxError(error);
  const database = join(directory, "opensandbox.sqlite");
  const restored =
    copy === undefined
      ? "restore your copy of the database"
      : `'rm -f ${database}-wal ${database}-shm && cp ${copy} ${database}'`;
  const wayBack = `To return to version ${before}: 'systemctl stop ${unit}', install its package, ${restored}, 'systemctl start ${unit}'`;
  return new SandboxError(code, `version ${after} does not serve: ${message}\n${wayBack}`, { cause: error });
}

function lastLine(text: string): string {
  return (
    text
      .trimEnd()
      .split("\n")
      .at(-1)
      ?.replace(/^osb: /, "") ?? ""
  );
}
