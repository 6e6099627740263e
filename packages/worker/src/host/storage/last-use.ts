import { stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { manifestFile } from "./immutable-directories.ts";

/** When a use of an immutable directory was last recorded, or the directory was made. Undefined: it does not exist. */
export async function lastUseOf(directory: string): Promise<Date | undefined> {
  for (const path of [join(directory, manifestFile), directory]) {
    try {
      return (await stat(path)).mtime;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  return undefined;
}

/** A directory's last use is recorded at most once in this time. */
const precisionMs = 60_000;

/** When this process last recorded a use, by directory. */
const recorded = new Map<string, number>();

/** Directories to remember before those of earlier minutes are forgotten. */
const maxRecorded = 1000;

/**
 * Records that an immutable directory is in use now, as the modification time of its manifest, in the background. A use
 * that cannot be recorded, such as that of a cache which this user may only read, makes the directory look older.
 */
export function recordUse(directory: string): void {
  const now = Date.now();
  const last = recorded.get(directory);
  if (last !== undefined && now - last < precisionMs) return;
  if (recorded.size >= maxRecorded) {
    for (const [known, time] of recorded) if (now - time >= precisionMs) recorded.delete(known);
  }
  recorded.set(directory, now);
  const time = new Date(now);
  utimes(join(directory, manifestFile), time, time).catch(() => recorded.delete(directory));
}
