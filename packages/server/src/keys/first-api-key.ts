import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writePrivateFile } from "../private-file.ts";

// The database stores only hashes of keys. The owner of the data directory has access to everything anyway.
const fileName = "api-key";

/** Stores the database's first key for later starts. Only this user can read it. */
export async function storeFirstApiKey(dataDirectory: string, apiKey: string): Promise<void> {
  await writePrivateFile(join(dataDirectory, fileName), `${apiKey}\n`);
}

/** The key that {@link storeFirstApiKey} stored. Undefined when its file is gone. */
export async function storedApiKey(dataDirectory: string): Promise<string | undefined> {
  try {
    return (await readFile(join(dataDirectory, fileName), "utf8")).trim() || undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
