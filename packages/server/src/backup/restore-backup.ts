import { chmod, copyFile, mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type DatabaseContents, tryDatabase } from "@opensandbox/control-plane";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { FileCopies, lockBackups, markRestore, refuseInUse, stageSnapshots, type Transfer } from "@opensandbox/worker";
import type { ServerConfig } from "../config.ts";
import { requireFileDatabase } from "../database-location.ts";
import { apiKeyName, type BackupManifest, databaseName, hashFile, readBackup } from "./backup-manifest.ts";
import { exists, flushAll, isMissing } from "./files.ts";

export interface RestoreBackup {
  /** A backup, or a copy of a database. */
  readonly source: string;
  /** Replace the content of the data directory, which is moved aside. */
  readonly force: boolean;
  readonly transfer: Transfer;
  /** Verify the backup, and replace nothing. */
  readonly dryRun: boolean;
  readonly onProgress: (step: string) => void;
}

export interface Restored {
  readonly contents: DatabaseContents;
  /** Absent: the backup was a database alone. */
  readonly snapshots?: number;
  /** Snapshots that the database names and that the backup does not have. */
  readonly missing: readonly string[];
  /** The earlier content of the data directory. */
  readonly replaced?: string;
}

type Config = Pick<ServerConfig, "dataDirectory" | "imagesDirectory" | "databaseUrl">;

/** SQLite's own files beside the database belong to it. */
const databaseFiles = [databaseName, `${databaseName}-wal`, `${databaseName}-shm`];

/** The content of a data directory, except for caches and the files of running processes. */
const contentNames = [...databaseFiles, apiKeyName, "snapshots", "machines", "journal"];

/**
 * Puts a backup into the data directory. Everything is staged there and verified first: by checksums, by SQLite's own
 * check, and by migrating a copy of the database. Then the earlier content is moved aside and the staged one takes its
 * place by renames; a server that starts in the middle refuses, and a repeated restore completes.
 */
export async function restoreBackup(config: Config, request: RestoreBackup, signal: AbortSignal): Promise<Restored> {
  requireFileDatabase(config);
  const { dataDirectory } = config;
  const source = resolve(request.source);
  const backup = await open(source);
  const names = backup.manifest === undefined ? databaseFiles : contentNames;
  if (!request.dryRun) {
    await refuseInUse(dataDirectory);
    await requireEmpty(dataDirectory, names, request.force);
  }
  await mkdir(dataDirectory, { recursive: true, mode: 0o711 });
  await using undo = new AsyncDisposableStack();
  undo.use(await lockBackups(dataDirectory));
  const staging = join(dataDirectory, "restore.unfinished");
  // A killed restore leaves its copies.
  await rm(staging, { recursive: true, force: true });
  await mkdir(staging, { mode: 0o700 });
  undo.defer(() => rm(staging, { recursive: true, force: true }));

  request.onProgress("verifying the database");
  const contents = await stageDatabase(backup, staging);
  if (backup.manifest !== undefined) {
    if (backup.manifest.hasApiKey) await copyFile(join(source, apiKeyName), join(staging, apiKeyName));
    request.onProgress("verifying snapshots");
    const { snapshots } = backup.manifest;
    const places = { from: join(source, "snapshots"), to: join(staging, "snapshots") };
    await stageSnapshots({ ...places, snapshots, transfer: request.transfer }, signal);
  }
  signal.throwIfAborted();
  const result = {
    contents,
    ...(backup.manifest === undefined ? {} : { snapshots: backup.manifest.snapshots.length }),
    missing: missingIn(contents, backup.manifest),
  };
  if (request.dryRun) return result;
  request.onProgress("replacing the data directory's content");
  await flushAll(staging);
  const replaced = await exchange(dataDirectory, staging, names);
  if (backup.manifest?.withImages === true) {
    request.onProgress("adding images");
    await new FileCopies(request.transfer, signal).placeImages(join(source, "images"), config.imagesDirectory);
  }
  return { ...result, ...(replaced === undefined ? {} : { replaced }) };
}

interface OpenedBackup {
  readonly database: string;
  /** Absent: a database alone. */
  readonly manifest?: BackupManifest;
}

async function open(source: string): Promise<OpenedBackup> {
  const found = await stat(source).catch((error: unknown) => {
    if (isMissing(error)) throw new SandboxError("invalid_argument", `there is no backup ${source}`);
    throw error;
  });
  if (!found.isDirectory()) return { database: source };
  return { database: join(source, databaseName), manifest: await readBackup(source) };
}

/** Copies the database, unchanged. A second copy shows that this version can use it. */
async function stageDatabase({ database, manifest }: OpenedBackup, staging: string): Promise<DatabaseContents> {
  if (manifest !== undefined && (await hashFile(database)) !== manifest.database.sha256) {
    throw new SandboxError("incompatible", `the backup is damaged: ${database} does not match its manifest`, {
      reason: "damaged",
    });
  }
  const staged = join(staging, databaseName);
  const trial = join(staging, "trial.sqlite");
  for (const copy of [staged, trial]) {
    await copyFile(database, copy);
    await chmod(copy, 0o600);
  }
  const contents = await tryDatabase(trial);
  if (contents.organizations === 0 && contents.apiKeys === 0 && manifest === undefined) {
    throw new SandboxError(
      "invalid_argument",
      `${database} is not a copy of a server's database: it has no organization`,
    );
  }
  for (const name of await readdir(staging)) if (name.startsWith("trial.sqlite")) await rm(join(staging, name));
  return contents;
}

function missingIn(contents: DatabaseContents, manifest: BackupManifest | undefined): readonly string[] {
  // A database alone uses the snapshots of the data directory.
  if (manifest === undefined) return [];
  const present = new Set(manifest.snapshots.map(({ id }) => id));
  return contents.snapshots.filter((id) => !present.has(id));
}

async function requireEmpty(dataDirectory: string, names: readonly string[], force: boolean): Promise<void> {
  const present = await presentIn(dataDirectory, names);
  if (present.length === 0 || force) return;
  throw new SandboxError(
    "invalid_argument",
    `${dataDirectory} has content (${present.join(", ")}): use --force to move it aside, or set OPENSANDBOX_DATA_DIR`,
  );
}

/** The names that exist, except for empty directories. */
async function presentIn(dataDirectory: string, names: readonly string[]): Promise<readonly string[]> {
  const present: string[] = [];
  for (const name of names) {
    const path = join(dataDirectory, name);
    if (!(await exists(path))) continue;
    if ((await stat(path)).isDirectory() && (await readdir(path)).length === 0) continue;
    present.push(name);
  }
  return present;
}

/** Returns the directory with the earlier content, if there was any. */
async function exchange(dataDirectory: string, staging: string, names: readonly string[]): Promise<string | undefined> {
  const mark = await markRestore(dataDirectory);
  try {
    // A server that started before the mark is found here, and a later one finds the mark.
    await refuseInUse(dataDirectory);
  } catch (error) {
    await mark.clear();
    throw error;
  }
  const present = await presentIn(dataDirectory, names);
  const replaced = join(dataDirectory, `replaced-${new Date().toISOString().replaceAll(/[-:.]/g, "")}`);
  if (present.length > 0) await mkdir(replaced, { mode: 0o700 });
  for (const name of present) await rename(join(dataDirectory, name), join(replaced, name));
  for (const name of names) {
    const path = join(dataDirectory, name);
    // An empty directory of the data directory is in the way of nothing but this rename.
    if (await exists(join(staging, name))) await rm(path, { recursive: true, force: true });
    if (await exists(join(staging, name))) await rename(join(staging, name), path);
  }
  await flushAll(join(dataDirectory, databaseName));
  await mark.clear();
  return present.length > 0 ? replaced : undefined;
}
