import type { RowRetention, UnnamedImage } from "@opensandbox/control-plane";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import {
  type CacheDirectories,
  type CacheItem,
  cacheItems,
  filesOfSnapshot,
  type Keeping,
  lostMachines,
  type Removal,
  removeItem,
  removeLeftovers,
  removeLostMachine,
  type Retention,
  selectRemovals,
  setUnclaimedAside,
  unclaimedMachines,
} from "@opensandbox/worker";
import { log } from "../log.ts";

export interface CollectionSources {
  readonly directories: CacheDirectories;
  /** Absent: there is no database. */
  readonly rows: RowRetention | undefined;
  /** Removes the files of snapshots that no row refers to. */
  removeUnwantedSnapshots(): Promise<void>;
}

/** What every removal is told. */
interface RunOptions {
  /** Only reports what would be removed. */
  readonly dryRun: boolean;
  readonly now: Date;
  readonly onProgress?: (step: string) => void;
  /** An abort ends the collection between two removals. */
  readonly signal: AbortSignal;
}

export interface CollectionOptions extends RunOptions {
  /** The most bytes that the cache keeps of what nothing uses. */
  readonly maxBytes: number;
  /** Bytes that are missing on the disk: the cache shrinks by them. */
  readonly shortBytes: number;
  /** Days after which unused things, and rows of what has ended, go; 0: never. */
  readonly retentionDays: number;
}

/** One thing that was removed, or would be. */
export interface Collected {
  readonly kind: string;
  readonly name: string;
  /** The name of an image, and that of a template's image. */
  readonly image?: string;
  readonly lastUsed?: string;
  readonly bytes: number;
  readonly reason: string;
}

export interface PruneReport {
  readonly removed: readonly Collected[];
  readonly failed: readonly { readonly kind: string; readonly name: string; readonly error: string }[];
  /** Bytes that became free. */
  readonly bytes: number;
}

export interface CollectionReport extends PruneReport {
  /** Bytes of what nothing uses, before the removals. */
  readonly unusedBytes: number;
  readonly maxBytes: number;
}

const dayMs = 24 * 3_600_000;

/**
 * Removes what nothing uses any more, by the time of its last use and by size: templates, workspaces, earlier builds of
 * images and of what they need, unnamed images, rows of what has ended, and disks of lost machines. A use that begins
 * meanwhile wins. A removal that fails is reported, and the others follow.
 */
export async function collect(sources: CollectionSources, options: CollectionOptions): Promise<CollectionReport> {
  const { directories, rows } = sources;
  const { now, maxBytes, shortBytes, retentionDays } = options;
  const run = new Run(options);
  const maxAgeMs = retentionDays === 0 ? undefined : retentionDays * dayMs;
  const unusedBytes = await removeUnused(sources, "current builds", { maxBytes, maxAgeMs, shortBytes }, run);
  if (retentionDays > 0) {
    const before = new Date(now.getTime() - retentionDays * dayMs);
    if (rows !== undefined) await collectRows(rows, before, run, retentionDays);
    await collectLostMachines(directories.dataDirectory, before, run, retentionDays);
  }
  return { ...run.result(), unusedBytes, maxBytes };
}

export interface PruneOptions extends RunOptions {
  /** An image goes when it was not used for this long. */
  readonly unusedForMs: number;
}

/**
 * Removes images that no machine, snapshot or checkpoint has a link to and that were not used for a time, with their
 * templates: current builds, pulled and loaded images too, and images without a name.
 */
export async function prune(
  sources: CollectionSources,
  { unusedForMs, ...options }: PruneOptions,
): Promise<PruneReport> {
  const run = new Run(options);
  const retention = { maxBytes: Number.POSITIVE_INFINITY, maxAgeMs: unusedForMs };
  await removeUnused(sources, "everything but images", retention, run);
  return run.result();
}

/** @returns the bytes of what nothing used before */
async function removeUnused(
  sources: CollectionSources,
  keeping: Keeping,
  retention: Retention,
  run: Run,
): Promise<number> {
  const { directories, rows } = sources;
  const { now, dryRun } = run.options;
  run.report("looking for what nothing uses");
  if (!dryRun) await run.attempt("leftovers", "of interrupted removals", () => removeLeftovers(directories));

  const images = new Map<CacheItem, UnnamedImage>();
  const items = [...(await cacheItems(directories, log, keeping)), ...(await imageItems(sources, images))];
  const { removals, unusedBytes } = selectRemovals(items, retention, now);
  for (const removal of removals) {
    const image = images.get(removal.item);
    await run.remove(collectedOf(removal, now), () =>
      image === undefined ? removeItem(removal.item, directories) : removeImage(rows, image),
    );
  }
  if (!dryRun && removals.some(({ item }) => images.has(item))) {
    await run.attempt("files", "of unnamed images", () => sources.removeUnwantedSnapshots());
  }
  return unusedBytes;
}

async function removeImage(rows: RowRetention | undefined, image: UnnamedImage): Promise<boolean> {
  return (await rows?.removeUnnamedImage(image)) ?? false;
}

async function imageItems(
  { directories: { dataDirectory }, rows }: CollectionSources,
  images: Map<CacheItem, UnnamedImage>,
): Promise<readonly CacheItem[]> {
  for (const image of (await rows?.unnamedImages()) ?? []) {
    const { snapshotId: name, lastUsedAt: lastUsed } = image;
    const files = await filesOfSnapshot(dataDirectory, name);
    images.set({ kind: "unnamed image", name, lastUsed, files, isNeeded: false }, image);
  }
  return [...images.keys()];
}

async function collectRows(rows: RowRetention, before: Date, run: Run, retentionDays: number): Promise<void> {
  const found = await rows.countOld(before);
  const kinds = [
    ["stopped sandboxes", found.stoppedSandboxes],
    ["failed checkpoints", found.failedCheckpoints],
    ["failed images", found.failedImages],
    ["events", found.events],
    ["webhook deliveries", found.deliveries],
  ] as const;
  const old = kinds.filter(([, count]) => count > 0);
  const collected = old.map(([kind, count]) => ({
    kind: `rows of ${kind}`,
    name: `${count} ${count === 1 ? "row" : "rows"}`,
    bytes: 0,
    reason: `ended more than ${retentionDays} days ago`,
  }));
  if (collected.length === 0) return;
  await run.removeAll(collected, () => rows.removeOld(before, run.options.signal));
}

async function collectLostMachines(
  dataDirectory: string,
  before: Date,
  run: Run,
  retentionDays: number,
): Promise<void> {
  const { now, dryRun } = run.options;
  if (dryRun) {
    for (const id of await unclaimedMachines(dataDirectory, now)) run.add(unclaimed(id));
  } else {
    await run.attempt("machines", "without a journal entry", async () => {
      for (const id of await setUnclaimedAside(dataDirectory, now)) run.add(unclaimed(id));
    });
  }
  for (const machine of await lostMachines(dataDirectory)) {
    const { name, movedAt, bytes } = machine;
    if (movedAt >= before) continue;
    const reason = `moved aside more than ${retentionDays} days ago`;
    await run.remove({ kind: "lost machine", name, lastUsed: movedAt.toISOString(), bytes, reason }, async () => {
      await removeLostMachine(dataDirectory, machine);
      return true;
    });
  }
}

function unclaimed(id: string): Collected {
  return { kind: "machine", name: id, bytes: 0, reason: "no journal entry names it: its disks are moved aside" };
}

function collectedOf({ item: { kind, name, image, lastUsed }, reason, bytes }: Removal, now: Date): Collected {
  const days = Math.floor((now.getTime() - lastUsed.getTime()) / dayMs);
  const why = {
    unused: `unused for ${days} days`,
    "over the size": "the cache exceeds its limit",
    "disk full": "the disk is nearly full",
  }[reason];
  const known = { kind, name, lastUsed: lastUsed.toISOString(), bytes, reason: why };
  return image === undefined ? known : { ...known, image };
}

/** Removes one thing after the other and keeps account. */
class Run {
  readonly options: RunOptions;
  readonly #removed: Collected[] = [];
  readonly #failed: { kind: string; name: string; error: string }[] = [];

  constructor(options: RunOptions) {
    this.options = options;
  }

  report(step: string): void {
    this.options.onProgress?.(step);
  }

  add(collected: Collected): void {
    this.#removed.push(collected);
  }

  /** `work` returns false for something that has been used meanwhile, and stays. */
  async remove(collected: Collected, work: () => Promise<boolean>): Promise<void> {
    if (this.options.signal.aborted) return;
    if (this.options.dryRun) return this.add(collected);
    const { kind, name } = collected;
    this.report(`removing ${kind} ${name}`);
    await this.attempt(kind, name, async () => {
      if (await work()) this.add(collected);
    });
  }

  async removeAll(collected: readonly Collected[], work: () => Promise<unknown>): Promise<void> {
    if (this.options.signal.aborted) return;
    if (!this.options.dryRun) {
      this.report(`removing ${collected.map(({ kind }) => kind).join(", ")}`);
      const { length } = this.#failed;
      await this.attempt("rows", "of what has ended", work);
      if (this.#failed.length > length) return;
    }
    for (const one of collected) this.add(one);
  }

  async attempt(kind: string, name: string, work: () => Promise<unknown>): Promise<void> {
    if (this.options.signal.aborted) return;
    try {
      await work();
    } catch (error) {
      if (this.options.signal.aborted) return;
      this.#failed.push({ kind, name, error: asSandboxError(error).message });
    }
  }

  result(): PruneReport {
    const bytes = this.#removed.reduce((sum, collected) => sum + collected.bytes, 0);
    return { removed: this.#removed, failed: this.#failed, bytes };
  }
}
