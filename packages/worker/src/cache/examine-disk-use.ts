import { join } from "node:path";
import { allocatedBytes, filesBelow, type FileUse } from "#host/storage/disk-use.ts";
import { namesIn } from "#host/storage/names-in.ts";
import { lostAndFoundDirectory } from "#machine/journal.ts";
import type { Finding } from "../examine-host.ts";
import type { CacheDirectories } from "./cache-directories.ts";
import { cacheItems } from "./cache-items.ts";
import { type CacheItem, selectRemovals } from "./select-removals.ts";
import { symbolicUsersOf } from "./symbolic-users.ts";

/**
 * What takes how much of the disk, as findings. A file with several names counts once, for the first of images,
 * templates, snapshots and machines that has it. Blocks that files share by reflinks count for each file.
 */
export async function examineDiskUse(
  directories: CacheDirectories,
  { maxBytes }: { readonly maxBytes: number },
): Promise<readonly Finding[]> {
  const { dataDirectory } = directories;
  try {
    const counted = new Set<string>();
    // The findings below name unreadable users.
    const items = await cacheItems(directories, () => undefined);
    const templates = items.filter(({ kind }) => kind === "template");
    const artifacts = items.filter(({ kind }) => kind !== "template");
    const snapshots = await directoriesIn(join(dataDirectory, "snapshots"), /^[^.]/);
    const machines = await directoriesIn(join(dataDirectory, "machines"), /^m-/);
    const lost = await directoriesIn(lostAndFoundDirectory(dataDirectory), /^m-/);
    const replaced = await directoriesIn(dataDirectory, /^replaced-/);
    const database = (await namesIn(dataDirectory)).filter((name) => name.startsWith("opensandbox.sqlite"));
    const line = (name: string, files: Iterable<FileUse>, what: string): Finding => ({
      ...{ name, level: "ok" },
      detail: `${gib(allocatedBytes(files, counted))}: ${what}`,
    });
    const { unreadable } = await symbolicUsersOf(directories.imagesDirectory);
    const { unusedBytes } = selectRemovals(items, { maxBytes, maxAgeMs: undefined }, new Date());
    return [
      line("images", filesOf(artifacts), kindsOf(artifacts)),
      line("templates", filesOf(templates), count(templates.length, "template")),
      line("snapshots", snapshots.files, `${count(snapshots.names, "snapshot")} of sandboxes, checkpoints and images`),
      line("machines", machines.files, count(machines.names, "machine")),
      ...(lost.names === 0 ? [] : [line("moved aside", lost.files, count(lost.names, "lost machine"))]),
      ...(replaced.names === 0
        ? []
        : [
            line(
              "replaced",
              replaced.files,
              `what ${count(replaced.names, "restore")} of a backup replaced; remove it when you no longer need it`,
            ),
          ]),
      line("database", await filesIn(dataDirectory, database), `${dataDirectory}/opensandbox.sqlite`),
      {
        ...{ name: "cache", level: "ok" },
        detail: `${gib(unusedBytes)} of images and templates that nothing uses, at most ${gib(maxBytes)} are kept`,
        ...(unusedBytes > maxBytes ? { fix: "a server removes the rest; without one, run osb gc" } : {}),
      },
      ...unreadable.map(({ dataDirectory: user, cause }): Finding => {
        const uses = `${user} uses ${directories.imagesDirectory} by symbolic links and cannot be`;
        const registration = `its file in ${directories.imagesDirectory}/.users`;
        return cause.code === "ENOENT"
          ? {
              ...{ name: "cache", level: "warn", detail: `${uses} found: no image is removed` },
              fix: `mount it or, if it is gone, remove ${registration}; that happens after a week`,
            }
          : {
              ...{ name: "cache", level: "warn", detail: `${uses} read (${cause.code}): no image is removed` },
              fix: `repair its file system or permissions or, if it is gone, remove ${registration}`,
            };
      }),
    ];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EACCES") throw error;
    return [
      {
        ...{ name: "disk use", level: "warn" },
        detail: `${dataDirectory}, or its images or templates, cannot be read by this user`,
        fix: "run as the owner of the directories to see what takes how much",
      },
    ];
  }
}

function filesOf(items: readonly CacheItem[]): FileUse[] {
  return items.flatMap(({ files }) => files);
}

async function directoriesIn(
  parent: string,
  pattern: RegExp,
): Promise<{ readonly names: number; readonly files: readonly FileUse[] }> {
  const names = (await namesIn(parent)).filter((name) => pattern.test(name));
  return { names: names.length, files: await filesIn(parent, names) };
}

async function filesIn(parent: string, names: readonly string[]): Promise<readonly FileUse[]> {
  const files: FileUse[] = [];
  for (const name of names) files.push(...(await filesBelow(join(parent, name))));
  return files;
}

function kindsOf(items: readonly CacheItem[]): string {
  const kinds = new Map<string, number>();
  for (const { kind } of items) kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  return [...kinds].map(([kind, number]) => count(number, kind)).join(", ") || "none";
}

function count(number: number, one: string): string {
  return `${number} ${one}${number === 1 || one.endsWith("s") ? "" : "s"}`;
}

function gib(bytes: number): string {
  const gibibytes = bytes / 2 ** 30;
  return gibibytes < 0.1 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${gibibytes.toFixed(1)} GiB`;
}
