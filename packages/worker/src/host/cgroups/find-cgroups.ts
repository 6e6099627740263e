import { existsSync } from "node:fs";
import { access, constants, readFile } from "node:fs/promises";
import { dirname, basename, join, relative } from "node:path";
import { readAttribute } from "../kernel/libc.ts";

/** The resources that a machine's cgroup limits. */
export const controllers = ["memory", "cpu", "io", "pids"] as const;
export type Controller = (typeof controllers)[number];

/** One hierarchy of cgroups. A host with cgroup v1 has several, with a controller or two each. */
export interface Hierarchy {
  readonly version: 1 | 2;
  readonly mountPoint: string;
  /** The cgroup below which this process makes others. */
  readonly base: string;
  readonly controllers: readonly Controller[];
  /** The kernel accounts processor time here. Under v1 that is a controller of its own. */
  readonly accounting: boolean;
  /** The child of `base` that its processes move to, since only a base without processes has controllers for its children (v2). */
  readonly leaf?: string;
}

export type FoundCgroups =
  | { readonly hierarchies: readonly [Hierarchy, ...Hierarchy[]]; readonly missing: readonly Controller[] }
  | { readonly hierarchies: readonly []; readonly reason: string; readonly fix: string };

export interface CgroupsOfProcess {
  /** Holds `mountinfo` and `cgroup` as in proc(5). */
  readonly proc?: string;
  readonly root?: boolean;
  /** Whether systemd manages the host's cgroups: then only delegated cgroups may have children. */
  readonly systemd?: boolean;
  readonly isDelegated?: (directory: string) => boolean;
}

/** The name of the cgroup that a server moves to, and that a unit with `DelegateSubgroup=server` starts in. */
const leafName = "server";

/** Finds where this process can make cgroups. Changes nothing. */
export async function findCgroups(options: CgroupsOfProcess = {}): Promise<FoundCgroups> {
  const { proc = "/proc/self", root = process.getuid?.() === 0 } = options;
  const [mounts, memberships] = await Promise.all([
    readFile(join(proc, "mountinfo"), "utf8").then(parseMounts),
    readFile(join(proc, "cgroup"), "utf8").then(parseMemberships),
  ]);
  const second = await findSecond(mounts, memberships, { ...options, root });
  if (second !== undefined && "base" in second) return withMissing([second]);
  const [first, ...others] = await findFirst(mounts, memberships);
  if (first !== undefined) return withMissing([first, ...others]);
  return { hierarchies: [], ...(second ?? (mounts.length === 0 ? notMounted : noControllers(root))) };
}

function withMissing(hierarchies: readonly [Hierarchy, ...Hierarchy[]]): FoundCgroups {
  const present = new Set(hierarchies.flatMap((hierarchy) => hierarchy.controllers));
  return { hierarchies, missing: controllers.filter((controller) => !present.has(controller)) };
}

interface Unusable {
  readonly reason: string;
  readonly fix: string;
}

const notMounted: Unusable = {
  reason: "this host has no cgroup file system mounted",
  fix: "mount cgroup2 on /sys/fs/cgroup",
};

function noControllers(root: boolean): Unusable {
  return root
    ? {
        reason: "this process cannot write to a cgroup hierarchy with a memory, cpu, io or pids controller",
        fix: "mount the hierarchies writable: in a container, run it privileged or with a cgroup namespace of its own",
      }
    : notRoot;
}

const notRoot: Unusable = {
  reason: "without root, a server makes cgroups only below one that was delegated to it",
  fix: "run the server as root, or as a systemd unit with Delegate=yes and DelegateSubgroup=server",
};

interface Mount {
  readonly version: 1 | 2;
  /** The cgroup that is visible at the mount point. */
  readonly root: string;
  readonly mountPoint: string;
  /** The controllers of a v1 hierarchy. */
  readonly names: readonly string[];
}

/** proc_pid_mountinfo(5). */
function parseMounts(text: string): Mount[] {
  return text.split("\n").flatMap((line) => {
    const [mount = "", superblock = ""] = line.split(" - ");
    const [, , , root = "", mountPoint = ""] = mount.split(" ").map(unescapeMount);
    const [type, , options = ""] = superblock.split(" ");
    if (type !== "cgroup" && type !== "cgroup2") return [];
    return [{ version: type === "cgroup" ? 1 : 2, root, mountPoint, names: options.split(",") }];
  });
}

function unescapeMount(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCodePoint(Number.parseInt(octal, 8)));
}

/** cgroups(7): the path of this process by the names of a hierarchy; the v2 hierarchy has none. */
function parseMemberships(text: string): ReadonlyMap<string, string> {
  const memberships = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [, names, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (names !== undefined && path !== undefined) memberships.set(names, path);
  }
  return memberships;
}

/** The directory of a cgroup. Without a cgroup namespace, the mount of a container may start below the path's root. */
function directoryOf({ root, mountPoint }: Mount, path: string): string {
  const below = relative(root, path);
  return below.startsWith("..") ? mountPoint : join(mountPoint, below);
}

/** The v1 names of our controllers. `cpuacct` limits nothing. */
const firstNames: Readonly<Record<string, Controller | undefined>> = {
  ...{ memory: "memory", cpu: "cpu", cpuacct: undefined, blkio: "io", pids: "pids" },
};

async function findFirst(mounts: readonly Mount[], memberships: ReadonlyMap<string, string>): Promise<Hierarchy[]> {
  const found: Hierarchy[] = [];
  for (const mount of mounts) {
    const names = mount.names.filter((name) => Object.hasOwn(firstNames, name));
    const path = [...memberships].find(([own]) => own.split(",").some((name) => names.includes(name)))?.[1];
    if (mount.version !== 1 || path === undefined) continue;
    const base = directoryOf(mount, path);
    if (found.some((earlier) => earlier.base === base) || !(await isWritable(base))) continue;
    found.push({
      version: 1,
      mountPoint: mount.mountPoint,
      base,
      controllers: names.flatMap((name) => firstNames[name] ?? []),
      accounting: names.includes("cpuacct"),
    });
  }
  // Accounting alone limits nothing.
  return found.some((hierarchy) => hierarchy.controllers.length > 0) ? found : [];
}

/** Undefined without a v2 hierarchy, and where it has no controllers, as beside v1. */
async function findSecond(
  mounts: readonly Mount[],
  memberships: ReadonlyMap<string, string>,
  options: CgroupsOfProcess & { readonly root: boolean },
): Promise<Hierarchy | Unusable | undefined> {
  const mount = mounts.find(({ version }) => version === 2);
  const path = memberships.get("");
  if (mount === undefined || path === undefined) return undefined;
  const { systemd = existsSync("/run/systemd/system"), isDelegated = isMarkedDelegated, root } = options;
  const own = directoryOf(mount, path);
  const base = own !== mount.mountPoint && basename(own) === leafName ? dirname(own) : own;
  const { mountPoint } = mount;
  // Only the hierarchy's true root lacks this file. It may have processes and children with controllers.
  const isTop = (directory: string): boolean => !existsSync(join(directory, "cgroup.type"));
  const isOurs = isDelegated(base) || (!systemd && !isTop(base));
  const usable = isOurs && (await isWritable(base)) ? base : root && isTop(mountPoint) ? mountPoint : undefined;
  if (usable === undefined || !(await isWritable(usable))) {
    const any = await availableIn(base);
    if (any.length === 0) return undefined;
    return root ? { ...noControllers(root), ...(systemd ? notDelegated : {}) } : notRoot;
  }
  const available = await availableIn(usable);
  if (available.length === 0) return undefined;
  return {
    ...{ version: 2, mountPoint, base: usable, controllers: available, accounting: true },
    ...(isTop(usable) ? {} : { leaf: join(usable, leafName) }),
  };
}

const notDelegated: Unusable = {
  reason: "systemd has not delegated this process's cgroup",
  fix: "run the server as a systemd unit with Delegate=yes and DelegateSubgroup=server",
};

async function availableIn(directory: string): Promise<Controller[]> {
  const text = await readFile(join(directory, "cgroup.controllers"), "utf8").catch(() => "");
  const names = text.trim().split(" ");
  return controllers.filter((controller) => names.includes(controller));
}

/** systemd marks the cgroups that it delegates (systemd.resource-control(5), Delegate=). */
function isMarkedDelegated(directory: string): boolean {
  return ["user.delegate", "trusted.delegate"].some((name) => readAttribute(directory, name) === "1");
}

async function isWritable(directory: string): Promise<boolean> {
  try {
    await access(directory, constants.W_OK);
    await access(join(directory, "cgroup.procs"), constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
