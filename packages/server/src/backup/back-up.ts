import { copyFile, mkdir, open, readdir, rename, rm, rmdir, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve, sep } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { backUpDatabase, type DatabaseContents } from "@opensandbox/control-plane";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { FileCopies, type HeldSnapshots, holdSnapshots, type Transfer } from "@opensandbox/worker";
import type { ServerConfig } from "../config.ts";
import { requireFileDatabase } from "../database-location.ts";
import {
  apiKeyName,
  type BackupManifest,
  databaseName,
  encodeBackup,
  hashFile,
  manifestPath,
} from "./backup-manifest.ts";
import { exists, flushAll, isMissing } from "./files.ts";

export interface BackUp {
  /** A directory to make; with `databaseOnly` a file. Neither may exist, except as an empty directory. */
  readonly target: string;
  readonly databaseOnly: boolean;
  readonly snapshots: Transfer | "none";
  readonly images: boolean;
  readonly onProgress: (step: string) => void;
}

export interface BackedUp {
  readonly target: string;
  readonly contents: DatabaseContents;
  readonly snapshots: number;
  /** Snapshots that the database names and that the data directory does not have. */
  readonly missing: readonly string[];
  /** Disk space of the files that could not be linked. */
  readonly copiedBytes: number;
}

type Config = Pick<ServerConfig, "dataDirectory" | "imagesDirectory" | "databaseUrl">;

/** A server that hibernates and wakes sandboxes meanwhile is overtaken by one of these rounds. */
const maxRounds = 10;
const pauseMs = 200;

/**
 * Backs up a data directory that a server may be using. The target appears by one rename, when it is complete and on the
 * disk.
 */
export async function backUp(config: Config, request: BackUp, signal: AbortSignal): Promise<BackedUp> {
  requireFileDatabase(config);
  const { dataDirectory } = config;
  const target = resolve(request.target);
  if (!(await exists(join(dataDirectory, databaseName)))) {
    const message = `there is nothing to back up: ${dataDirectory} has no database. Set OPENSANDBOX_DATA_DIR`;
    throw new SandboxError("invalid_argument", message);
  }
  if (!request.databaseOnly && `${target}${sep}`.startsWith(`${resolve(dataDirectory, "snapshots")}${sep}`)) {
    throw new SandboxError("invalid_argument", `${target} belongs to the server: choose another directory`);
  }
  await requireFree(target, request.databaseOnly);
  const unfinished = `${target}.unfinished-${process.pid}`;
  await mkdir(dirname(target), { recursive: true });
  await rm(unfinished, { recursive: true, force: true });
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(unfinished, { recursive: true, force: true }));
  if (request.databaseOnly) {
    const contents = await backUpDatabase(join(dataDirectory, databaseName), unfinished);
    await publish(unfinished, target);
    return { target, contents, snapshots: 0, missing: [], copiedBytes: 0 };
  }
  await mkdir(unfinished, { mode: 0o700 });
  const manifest = await fill(unfinished, config, request, signal);
  const { copiedBytes, ...rest } = manifest;
  request.onProgress("writing the backup to the disk");
  await writeFile(manifestPath(unfinished), encodeBackup(rest), { mode: 0o600 });
  await flushAll(unfinished);
  await publish(unfinished, target);
  const { contents, snapshots, missing } = rest;
  return { target, contents, snapshots: snapshots.length, missing, copiedBytes };
}

async function fill(
  directory: string,
  { dataDirectory, imagesDirectory }: Config,
  request: BackUp,
  signal: AbortSignal,
): Promise<BackupManifest & { readonly copiedBytes: number }> {
  const database = join(directory, databaseName);
  request.onProgress("copying the database");
  await using held = await holdSnapshots(dataDirectory);
  const withSnapshots = request.snapshots !== "none";
  const { contents, missing } = await copyTogether(dataDirectory, database, withSnapshots ? held : undefined, signal);
  const hasApiKey = await copyIfThere(join(dataDirectory, apiKeyName), join(directory, apiKeyName));
  request.onProgress("copying snapshots");
  const transfer = request.snapshots === "none" ? "link" : request.snapshots;
  const placed = await held.place(join(directory, "snapshots"), transfer, signal);
  let { copiedBytes } = placed;
  if (request.images) {
    request.onProgress("copying images");
    const copies = new FileCopies(transfer, signal);
    await copies.placeImages(imagesDirectory, join(directory, "images"));
    copiedBytes += copies.copiedBytes;
  }
  return {
    createdAt: new Date().toISOString(),
    dataDirectory,
    database: { bytes: (await stat(database)).size, sha256: await hashFile(database) },
    contents,
    hasApiKey,
    snapshots: placed.snapshots,
    withSnapshots,
    missing,
    withImages: request.images,
    copiedBytes,
  };
}

/**
 * Copies the database and holds its snapshots. A server may remove a snapshot between the two; its rows say so by then,
 * so the database is copied again.
 */
async function copyTogether(
  dataDirectory: string,
  database: string,
  held: HeldSnapshots | undefined,
  signal: AbortSignal,
): Promise<{ readonly contents: DatabaseContents; readonly missing: readonly string[] }> {
  for (let round = 1; ; round += 1) {
    signal.throwIfAborted();
    const contents = await backUpDatabase(join(dataDirectory, databaseName), database);
    if (held === undefined) return { contents, missing: [] };
    const missing = await held.hold(contents.snapshots);
    await held.hold(contents.unfinished);
    if (missing.length === 0 || round === maxRounds) return { contents, missing };
    await sleep(pauseMs, undefined, { signal });
  }
}

async function requireFree(target: string, asFile: boolean): Promise<void> {
  const found = await stat(target).catch((error: unknown) => {
    if (isMissing(error)) return undefined;
    throw error;
  });
  if (found === undefined) return;
  if (found.isDirectory() && !asFile && (await readdir(target)).length === 0) return;
  throw new SandboxError("invalid_argument", `${target} exists: name a ${asFile ? "file" : "directory"} to make`);
}

/** Gives the backup its name. */
async function publish(unfinished: string, target: string): Promise<void> {
  await rmdir(target).catch((error: unknown) => {
    if (!isMissing(error)) throw error;
  });
  await rename(unfinished, target);
  await using parent = await open(dirname(target));
  await parent.sync();
}

async function copyIfThere(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}
