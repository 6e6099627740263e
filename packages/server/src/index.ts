import { existsSync } from "node:fs";
import * as worker from "@opensandbox/worker";
import type { Progress } from "@opensandbox/wire/worker/worker.ts";
import { retentionOf } from "./collection/retention.ts";
import { type ServerConfig } from "./config.ts";
import { workerOptions } from "./worker-options.ts";

export { copyDatabase, migrateDatabase } from "./admin-database.ts";
export { administer } from "./administration.ts";
export { type BackedUp, backUp } from "./backup/back-up.ts";
export { restoreBackup, type Restored } from "./backup/restore-backup.ts";
export { type Collected, type CollectionReport } from "./collection/collect.ts";
export { collectGarbage, pruneImages } from "./collection/collect-garbage.ts";
export { readConfig, type ServerConfig } from "./config.ts";
export { rotateMasterKey } from "./keys/master-keys.ts";
export type { Server } from "./server.ts";
export { startServer } from "./start-server.ts";
export type { ApiKey, Organization } from "@opensandbox/control-plane";
export type { Finding, ImageSummary, ListedImage, SnapshotProblem } from "@opensandbox/worker";

/** Checks what this host supports and what it lacks. */
export async function examineHost(config: ServerConfig): Promise<readonly worker.Finding[]> {
  const findings = await worker.examineHost(workerOptions(config));
  if (!existsSync(config.dataDirectory)) return findings;
  return [...findings, ...(await worker.examineDiskUse(config, await retentionOf(config)))];
}

/** The snapshots of the data directory that this version cannot restore on this host. */
export async function examineSnapshots(config: ServerConfig): Promise<readonly worker.SnapshotProblem[]> {
  return await worker.examineSnapshots({ ...workerOptions(config), ephemeral: false });
}

export async function buildImage(
  config: ServerConfig,
  name: string,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<worker.ImageSummary> {
  return await worker.buildImage(workerOptions(config), name, onProgress, signal);
}

/** Pulls an image of a registry, although the host may have an older one under this name. */
export async function pullImage(
  config: ServerConfig,
  name: string,
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<worker.ImageSummary> {
  return await worker.pullImage(workerOptions(config), name, onProgress, signal);
}

/** Makes an image of an archive, such as `docker save` writes. */
export async function loadImage(
  config: ServerConfig,
  archive: { readonly file: string; readonly name?: string },
  onProgress: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<worker.ImageSummary> {
  return await worker.loadImage(workerOptions(config), archive, onProgress, signal);
}

export async function listImages(config: ServerConfig): Promise<readonly worker.ListedImage[]> {
  return await worker.listImages(workerOptions(config));
}

export async function removeImage(config: ServerConfig, name: string): Promise<void> {
  await worker.removeImage(workerOptions(config), name);
}
