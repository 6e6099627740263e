import { randomBytes } from "node:crypto";
import { link, mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { parseMasterKeys } from "./parse-master-keys.ts";
import type { ServerConfig } from "../config.ts";
import { writePrivateFile } from "../private-file.ts";

// The database contains secrets encrypted, and its copies and backups may leave the host. This file does not.
const fileName = "master-key";

/**
 * The master keys in the data directory, one a line, the newest first. The first start makes one. Only this user can read
 * the file.
 * @throws `unavailable` when others can read it, or a line is not a key
 */
export async function storedMasterKeys(dataDirectory: string): Promise<readonly string[]> {
  const file = join(dataDirectory, fileName);
  const content = await readFile(file, "utf8").catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
    return await makeFile(dataDirectory, file);
  });
  const mode = (await stat(file)).mode & 0o777;
  if ((mode & 0o077) !== 0) {
    const message = `${file} can be read by other users (mode ${mode.toString(8)}): make it private with chmod 600, and consider its key known`;
    throw new SandboxError("unavailable", message);
  }
  const lines = content.split("\n").filter((line) => line.trim() !== "");
  if (lines.length === 0)
    throw new SandboxError("unavailable", `${file} is empty: restore it, or remove it for a new key`);
  try {
    return parseMasterKeys(lines);
  } catch (cause) {
    throw new SandboxError("unavailable", `${file}: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Puts a new key before the others. The next start encrypts every secret with it. Returns the file.
 * @throws `invalid_argument` when a setting names the keys
 */
export async function rotateMasterKey({ dataDirectory, masterKeys }: ServerConfig): Promise<string> {
  if (masterKeys !== undefined) {
    const message = "the master key is in OPENSANDBOX_MASTER_KEY: write a new one before it, separated by a comma";
    throw new SandboxError("invalid_argument", message);
  }
  const file = join(dataDirectory, fileName);
  const earlier = await storedMasterKeys(dataDirectory);
  await writePrivateFile(file, linesOf([newKey(), ...earlier]));
  return file;
}

/** Two servers that start together get the same file. */
async function makeFile(dataDirectory: string, file: string): Promise<string> {
  await mkdir(dataDirectory, { recursive: true, mode: 0o700 });
  const temporary = `${file}.${randomBytes(8).toString("hex")}`;
  await writeFile(temporary, linesOf([newKey()]), { mode: 0o600, flag: "wx", flush: true });
  try {
    await link(temporary, file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    await rm(temporary, { force: true });
  }
  return await readFile(file, "utf8");
}

function newKey(): string {
  return randomBytes(32).toString("hex");
}

function linesOf(keys: readonly string[]): string {
  return keys.map((key) => `${key}\n`).join("");
}
