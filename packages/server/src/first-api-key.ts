import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writePrivateFile } from "./private-file.ts";

// The database has only hashes, and whoever owns the data directory needs no key to be let in.
const fileName = "api-key";

/** Keeps the database's first key for later starts, readable by this user alone. */
export async function keepFirstApiKey(dataDirectory: string, apiKey: string): Promise<void> {
  await writePrivateFile(join(dataDirectory, fileName), `${apiKey}\n`);
}

/** The key that {@link keepFirstApiKey} kept, unless it was removed. */
export async function knownApiKey(dataDirectory: string): Promise<string | undefined> {
  try {
    return (await readFile(join(dataDirectory, fileName), "utf8")).trim() || undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
