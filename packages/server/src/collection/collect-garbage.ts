import { access, constants } from "node:fs/promises";
import { existsSync } from "node:fs";
import { openRowRetention } from "@opensandbox/control-plane";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { hasLiveWorker, refuseDuringRestore, removeSnapshotOf } from "@opensandbox/worker";
import type { ServerConfig } from "../config.ts";
import { databaseLocation } from "../database-location.ts";
import { log } from "../log.ts";
import {
  collect,
  type CollectionOptions,
  type CollectionReport,
  type CollectionSources,
  prune,
  type PruneOptions,
  type PruneReport,
} from "./collect.ts";
import { retentionOf } from "./retention.ts";

type Asked = Pick<CollectionOptions, "dryRun" | "onProgress" | "signal">;

/**
 * Collects in the data directory, whether a server runs on it or not: locks on disk keep both from removing what the
 * other uses.
 * @throws `permission_denied` for a directory of another user; `unavailable` while a backup is being restored to it
 */
export async function collectGarbage(config: ServerConfig, options: Asked): Promise<CollectionReport> {
  if (!existsSync(config.dataDirectory)) return { removed: [], failed: [], bytes: 0, unusedBytes: 0, maxBytes: 0 };
  await using opened = await openSources(config);
  return await collect(opened.sources, { ...(await retentionOf(config)), ...options, now: new Date() });
}

/**
 * Removes images of the host that nothing uses and nothing used for a time, whether a server runs or not.
 * @throws as {@link collectGarbage} does
 */
export async function pruneImages(
  config: ServerConfig,
  options: Asked & Pick<PruneOptions, "unusedForMs">,
): Promise<PruneReport> {
  if (!existsSync(config.dataDirectory)) return { removed: [], failed: [], bytes: 0 };
  await using opened = await openSources(config);
  return await prune(opened.sources, { ...options, now: new Date() });
}

async function openSources(config: ServerConfig): Promise<{ readonly sources: CollectionSources } & AsyncDisposable> {
  const { dataDirectory } = config;
  await requireAccess(dataDirectory);
  refuseDuringRestore(dataDirectory);
  const database = databaseLocation(config);
  const isThere = typeof database !== "string" || existsSync(database);
  const opened = isThere ? await openRowRetention(database) : undefined;
  const sources = {
    directories: config,
    rows: opened?.rows,
    async removeUnwantedSnapshots() {
      // A running server removes them within a minute: it knows which are being read.
      if (await hasLiveWorker(dataDirectory)) return;
      await opened?.rows.removeUnwantedSnapshots((id) => removeSnapshotOf(dataDirectory, id), log);
    },
  };
  return { sources, [Symbol.asyncDispose]: async () => await opened?.[Symbol.asyncDispose]() };
}

async function requireAccess(dataDirectory: string): Promise<void> {
  try {
    await access(dataDirectory, constants.R_OK | constants.W_OK);
  } catch (cause) {
    const message = `the data directory ${dataDirectory} belongs to another user: run as its owner`;
    throw new SandboxError("permission_denied", message, { cause });
  }
}
