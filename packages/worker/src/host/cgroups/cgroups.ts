import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rmdir, stat, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Controller, FoundCgroups, Hierarchy } from "./find-cgroups.ts";

/** Limits of a cgroup. An absent one stays as it is; in a new cgroup it is unlimited. */
export interface CgroupLimits {
  readonly memoryBytes?: number;
  /** Share of the processors under contention, relative to other cgroups; 100 is one processor's worth. */
  readonly cpuWeight?: number;
  /** Upper bound of processor time, in percent of one processor; `unlimited`: as much as is free. */
  readonly cpuPercent?: number | "unlimited";
  /** Share of the disks under contention, relative to other cgroups: 1 to 1000, 100 by default. */
  readonly ioWeight?: number;
  /** Maximum of processes and threads. */
  readonly maxTasks?: number;
}

/** Resources that a cgroup uses. A value is undefined where the host has no controller for it. */
export interface CgroupUsage {
  /** Includes the page cache of files that its processes read first. */
  readonly memoryBytes: number | undefined;
  /** Memory that the kernel cannot reclaim without swap. */
  readonly anonymousBytes: number | undefined;
  readonly cpuMicroseconds: number | undefined;
  readonly tasks: number | undefined;
  /** Processes that the kernel killed at the memory limit. */
  readonly oomKills: number | undefined;
}

/** The cgroup of one machine or service, in every hierarchy. Disposing it removes it; its processes must have ended. */
export interface Cgroup extends AsyncDisposable {
  readonly name: string;
  /** A process of one thread enters by writing `0` to each of these files. */
  readonly entrances: readonly string[];
  /** Takes effect at once, also on running processes. */
  setLimits(limits: CgroupLimits): Promise<void>;
  usage(): Promise<CgroupUsage>;
}

/** The cgroup above all machines' cgroups. Servers with the same base share it. */
export const parentName = "opensandbox-machines";

/**
 * Makes the cgroups of one data directory. They lie below one parent, which competes with the host's other processes as
 * one group.
 */
export class Cgroups {
  readonly hierarchies: readonly Hierarchy[];
  readonly missing: readonly Controller[];
  readonly #prefix: string;
  /** Directories that other workers of the data directory left, by the cgroup's name. */
  readonly #left: Map<string, readonly string[]>;

  private constructor(found: UsableCgroups, prefix: string, left: Map<string, readonly string[]>) {
    this.hierarchies = found.hierarchies;
    this.missing = found.missing;
    this.#prefix = prefix;
    this.#left = left;
  }

  /** @throws `unavailable` when the kernel refuses to make cgroups where {@link findCgroups} found a place for them */
  static async open(found: UsableCgroups, dataDirectory: string): Promise<Cgroups> {
    const prefix = prefixOf(dataDirectory);
    const left = await findByPrefix(prefix, found.hierarchies);
    const cgroups = new Cgroups(found, prefix, left);
    for (const hierarchy of found.hierarchies) {
      await orUnavailable(`prepare ${hierarchy.base}`, async () => {
        await vacate(hierarchy);
        await makeParent(hierarchy);
      });
    }
    return cgroups;
  }

  /** Makes the cgroup, or reuses an empty one of that name. A failure leaves nothing behind. */
  async create(name: string, limits: CgroupLimits): Promise<Cgroup> {
    return await orUnavailable(`make a cgroup for ${name}`, async () => {
      await using undo = new AsyncDisposableStack();
      const places: Place[] = [];
      for (const hierarchy of this.hierarchies) {
        const directory = this.#directoryIn(hierarchy, name);
        await makeBelowParent(directory, hierarchy);
        undo.defer(() => remove(directory));
        places.push({ hierarchy, directory });
      }
      const group = new PlacedCgroup(name, places);
      await group.setLimits(limits);
      undo.move();
      return group;
    });
  }

  /**
   * Finds the cgroup of a process that another worker started, or makes one and moves the process in. Until
   * {@link removeLeftOver} has returned, the cgroup counts as left over.
   * @throws `unavailable` when the kernel refuses, for example because the process has ended
   */
  async adopt(name: string, pid: number, limits: CgroupLimits): Promise<Cgroup> {
    const left = this.#left.get(name) ?? [];
    return await orUnavailable(`find the cgroup of ${name}`, async () => {
      const places: Place[] = [];
      for (const hierarchy of this.hierarchies) {
        const present = left.find((directory) => directory.startsWith(`${hierarchy.mountPoint}/`));
        const directory = present ?? this.#directoryIn(hierarchy, name);
        if (present === undefined) await makeBelowParent(directory, hierarchy);
        if (!(await membersOf(directory)).includes(pid)) await writeFile(entranceOf(directory), String(pid));
        places.push({ hierarchy, directory });
      }
      const group = new PlacedCgroup(name, places);
      this.#left.set(
        name,
        places.map(({ directory }) => directory),
      );
      await group.setLimits(limits);
      return group;
    });
  }

  /** Removes the cgroups of dead workers, except those that `isNeeded` names. Returns the names of the removed ones. */
  async removeLeftOver(isNeeded: (name: string) => boolean): Promise<readonly string[]> {
    const removed: string[] = [];
    for (const [name, directories] of this.#left) {
      if (isNeeded(name)) continue;
      for (const directory of directories) await remove(directory);
      this.#left.delete(name);
      removed.push(name);
    }
    await removeAbandoned(this.hierarchies);
    return removed;
  }

  /** Removes the parents, unless cgroups of another server are in them. */
  async close(): Promise<void> {
    for (const hierarchy of this.hierarchies) await rmdir(parentOf(hierarchy)).catch(ignoreInUse);
  }

  #directoryIn(hierarchy: Hierarchy, name: string): string {
    return join(parentOf(hierarchy), `${this.#prefix}${name}`);
  }
}

type UsableCgroups = Extract<FoundCgroups, { readonly missing: unknown }>;

/** All cgroups of machines of the data directory, by name. */
export async function cgroupsOf(
  dataDirectory: string,
  hierarchies: readonly Hierarchy[],
): Promise<ReadonlyMap<string, readonly string[]>> {
  return await findByPrefix(prefixOf(dataDirectory), hierarchies);
}

/** Distinguishes the cgroups of servers with different data directories. */
function prefixOf(dataDirectory: string): string {
  return `${createHash("sha256").update(dataDirectory).digest("hex").slice(0, 8)}-`;
}

interface Place {
  readonly hierarchy: Hierarchy;
  readonly directory: string;
}

class PlacedCgroup implements Cgroup {
  readonly name: string;
  readonly entrances: readonly string[];
  readonly #places: readonly Place[];

  constructor(name: string, places: readonly Place[]) {
    this.name = name;
    this.entrances = places.map(({ hierarchy, directory }) =>
      // Moving a process waits for a grace period of RCU, 5 to 15 ms; moving the calling thread does not. Cgroups of
      // version 2 accept whole processes only.
      hierarchy.version === 1 ? join(directory, "tasks") : entranceOf(directory),
    );
    this.#places = places;
  }

  async setLimits(limits: CgroupLimits): Promise<void> {
    for (const { hierarchy, directory } of this.#places) {
      for (const [file, value] of filesOf(limits, hierarchy)) await writeFile(join(directory, file), value);
      if (limits.ioWeight !== undefined && hierarchy.controllers.includes("io")) {
        await setIoWeight(directory, limits.ioWeight);
      }
    }
  }

  async usage(): Promise<CgroupUsage> {
    const [memory, pids, accounting] = [this.#with("memory"), this.#with("pids"), this.#accounting()];
    const stat = await fieldsOf(memory?.directory, "memory.stat");
    const v1 = memory?.hierarchy.version === 1;
    const events = await fieldsOf(memory?.directory, v1 ? "memory.oom_control" : "memory.events");
    return {
      memoryBytes: await numberOf(memory?.directory, v1 ? "memory.usage_in_bytes" : "memory.current"),
      anonymousBytes: stat?.get(v1 ? "total_rss" : "anon"),
      cpuMicroseconds: await cpuOf(accounting),
      tasks: await numberOf(pids?.directory, "pids.current"),
      oomKills: events?.get("oom_kill"),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { directory } of this.#places) await remove(directory);
  }

  #with(controller: Controller): Place | undefined {
    return this.#places.find(({ hierarchy }) => hierarchy.controllers.includes(controller));
  }

  #accounting(): Place | undefined {
    return this.#places.find(({ hierarchy }) => hierarchy.accounting);
  }
}

/** The period of a processor limit, the kernel's default. */
const periodMicroseconds = 100_000;

/** Files and values for the limits that the hierarchy has a controller for. Pure. */
function filesOf(limits: CgroupLimits, { version, controllers }: Hierarchy): [file: string, value: string][] {
  const { memoryBytes, cpuWeight, cpuPercent, maxTasks } = limits;
  const files: [string, string][] = [];
  if (controllers.includes("memory") && memoryBytes !== undefined) {
    files.push([version === 1 ? "memory.limit_in_bytes" : "memory.max", String(memoryBytes)]);
  }
  if (controllers.includes("cpu")) {
    if (cpuWeight !== undefined) files.push(weightFile(cpuWeight, version));
    if (cpuPercent !== undefined) {
      const quota = cpuPercent === "unlimited" ? undefined : Math.round((cpuPercent / 100) * periodMicroseconds);
      if (version === 2) files.push(["cpu.max", `${quota ?? "max"} ${periodMicroseconds}`]);
      else {
        files.push(["cpu.cfs_period_us", String(periodMicroseconds)], ["cpu.cfs_quota_us", String(quota ?? -1)]);
      }
    }
  }
  if (controllers.includes("pids") && maxTasks !== undefined) files.push(["pids.max", String(maxTasks)]);
  return files;
}

/** A v1 share of 1024 is a v2 weight of 100: both are that of one process. */
function weightFile(weight: number, version: 1 | 2): [file: string, value: string] {
  const inRange = (value: number, max: number): string => String(Math.min(max, Math.max(1, Math.round(value))));
  return version === 2
    ? ["cpu.weight", inRange(weight, 10_000)]
    : ["cpu.shares", inRange((weight * 1024) / 100, 262_144)];
}

/** Each I/O scheduler has its own file, which exists where the kernel has the scheduler. */
async function setIoWeight(directory: string, weight: number): Promise<void> {
  for (const file of ["io.weight", "io.bfq.weight", "blkio.weight", "blkio.bfq.weight"]) {
    try {
      await writeFile(join(directory, file), String(weight), { flag: "r+" });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
}

/** Moves the processes of the base into its leaf: under v2, only leaves may have processes. */
async function vacate({ base, leaf }: Hierarchy): Promise<void> {
  if (leaf === undefined) return;
  await mkdir(leaf, { recursive: true });
  // A process may fork while it is being moved.
  for (let attempt = 0; attempt < 10; attempt += 1) {
    const members = await membersOf(base);
    if (members.length === 0) return;
    for (const pid of members) await writeFile(entranceOf(leaf), String(pid)).catch(ignoreEnded);
  }
}

function parentOf({ base }: Hierarchy): string {
  return join(base, parentName);
}

async function makeParent(hierarchy: Hierarchy): Promise<void> {
  const { version, base, controllers } = hierarchy;
  const parent = parentOf(hierarchy);
  if (version === 2) await enable(base, controllers);
  await mkdir(parent, { recursive: true });
  if (version === 2) await enable(parent, controllers);
  if (controllers.includes("cpu")) {
    // Under contention, all machines together have the weight of one ordinary process on each processor.
    const [file, value] = weightFile(100 * availableParallelism(), version);
    await writeFile(join(parent, file), value);
  }
}

/** Gives the children of a v2 cgroup its controllers. */
async function enable(directory: string, controllers: readonly Controller[]): Promise<void> {
  const words = controllers.map((controller) => `+${controller}`).join(" ");
  await writeFile(join(directory, "cgroup.subtree_control"), words);
}

async function makeBelowParent(directory: string, hierarchy: Hierarchy): Promise<void> {
  try {
    await mkdir(directory);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return;
    if (code !== "ENOENT") throw error;
    // Another server removed the parent when it ended.
    await makeParent(hierarchy);
    await mkdir(directory);
  }
}

/** A killed process leaves its cgroup when the kernel has freed its memory. */
const removeTimeoutMs = 10_000;

/** @throws `unavailable` when a process stays in it */
async function remove(directory: string): Promise<void> {
  for (const deadline = performance.now() + removeTimeoutMs; ;) {
    try {
      return await rmdir(directory);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT") return;
      if (code !== "EBUSY") throw error;
      if (performance.now() > deadline) {
        const pids = (await membersOf(directory)).join(", ");
        throw new SandboxError("unavailable", `cannot remove the cgroup ${directory}: process ${pids} is still in it`);
      }
    }
    await sleep(10);
  }
}

/**
 * A machine's cgroup that is older than this and empty belongs to no server, since a server fills it at once and removes
 * it with the machine. When its data directory was deleted, no server of that directory removes it.
 */
const abandonedMs = 600_000;

async function removeAbandoned(hierarchies: readonly Hierarchy[]): Promise<void> {
  for (const { mountPoint } of hierarchies) {
    for (const parent of await parentsBelow(mountPoint, maxDepth)) {
      for (const name of await childrenOf(parent)) {
        const directory = join(parent, name);
        if (!machineName.test(name) || !(await isOld(directory))) continue;
        // The kernel refuses while there is a process in it.
        await rmdir(directory).catch(ignoreInUse);
      }
    }
  }
}

/** A prefix, and the id of a machine. */
const machineName = /^[0-9a-f]{8}-m-/;

/** The kernel may report a later time than that of the creation, never an earlier one. */
async function isOld(directory: string): Promise<boolean> {
  const stats = await stat(directory).catch(() => undefined);
  return stats !== undefined && Date.now() - stats.mtimeMs > abandonedMs;
}

/** The depth of the search for parents. systemd nests its units less deeply. */
const maxDepth = 10;

/** The cgroups whose name starts with `prefix`, with their directories in every hierarchy, by the rest of the name. */
async function findByPrefix(
  prefix: string,
  hierarchies: readonly Hierarchy[],
): Promise<Map<string, readonly string[]>> {
  const found = new Map<string, readonly string[]>();
  for (const { mountPoint } of hierarchies) {
    for (const parent of await parentsBelow(mountPoint, maxDepth)) {
      for (const name of await childrenOf(parent)) {
        if (!name.startsWith(prefix)) continue;
        const rest = name.slice(prefix.length);
        found.set(rest, [...(found.get(rest) ?? []), join(parent, name)]);
      }
    }
  }
  return found;
}

/** Finds the parents in a hierarchy: a server that ran in another service or terminal had another base. */
async function parentsBelow(directory: string, depth: number): Promise<string[]> {
  if (depth === 0) return [];
  const parents: string[] = [];
  for (const name of await childrenOf(directory)) {
    const child = join(directory, name);
    if (name === parentName) parents.push(child);
    else parents.push(...(await parentsBelow(child, depth - 1)));
  }
  return parents;
}

async function childrenOf(directory: string): Promise<string[]> {
  // A cgroup may be removed meanwhile.
  const entries = await readdir(directory, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

async function membersOf(directory: string): Promise<number[]> {
  const text = await readFile(entranceOf(directory), "utf8");
  return text.split("\n").filter(Boolean).map(Number);
}

function entranceOf(directory: string): string {
  return join(directory, "cgroup.procs");
}

async function numberOf(directory: string | undefined, file: string): Promise<number | undefined> {
  return directory === undefined ? undefined : Number(await readFile(join(directory, file), "utf8"));
}

async function fieldsOf(directory: string | undefined, file: string): Promise<Map<string, number> | undefined> {
  if (directory === undefined) return undefined;
  const lines = (await readFile(join(directory, file), "utf8")).trim().split("\n");
  return new Map(lines.map((line) => line.split(" ")).map(([name = "", value]) => [name, Number(value)]));
}

async function cpuOf(place: Place | undefined): Promise<number | undefined> {
  if (place === undefined) return undefined;
  const { directory, hierarchy } = place;
  if (hierarchy.version === 2) return (await fieldsOf(directory, "cpu.stat"))?.get("usage_usec");
  const nanoseconds = await numberOf(directory, "cpuacct.usage");
  return nanoseconds === undefined ? undefined : Math.round(nanoseconds / 1000);
}

function ignoreEnded(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
}

function ignoreInUse(error: unknown): void {
  const { code } = error as NodeJS.ErrnoException;
  if (code !== "EBUSY" && code !== "ENOENT") throw error;
}

async function orUnavailable<Result>(what: string, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (cause) {
    const { message } = cause as Error;
    throw new SandboxError("unavailable", `cannot ${what}: ${message}`, { cause });
  }
}
