import { access, constants } from "node:fs/promises";
import { existsSync } from "node:fs";
import { openRowRetention } from "@opensandbox/control-plane";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { hasLiveWorker, refuseDuringRestore, removeSnapshotOf } from "@opensandbox/worker";
import type { ServerConfig } from "../config.ts";
import { databaseLocation } from "../database-location.ts";
import { log } from "../log.ts";
import { collect, type CollectionOptions, type CollectionReport } from "./collect.ts";
import { retentionOf } from "./retention.ts";

/**
 * Collects in the data directory, whether a server runs on it or not: locks on disk keep both from removing what the
 * other uses.
 * @throws `permission_denied` for a directory of another user; `unavailable` while a backup is being restored to it
 */
export async function collectGarbage(
  config: ServerConfig,
  options: Pick<CollectionOptions, "dryRun" | "onProgress" | "signal">,
): Promise<CollectionReport> {
  const { dataDirectory } = config;
  if (!existsSync(dataDirectory)) return { removed: [], failed: [], bytes: 0, unusedBytes: 0, maxBytes: 0 };
  await requireAccess(dataDirectory);
  refuseDuringRestore(dataDirectory);
  const database = databaseLocation(config);
  const isThere = typeof database !== "string" || existsSync(database);
  await using opened = isThere ? await openRowRetention(database) : undefined;
  const sources = {
    directories: config,
    rows: opened?.rows,
    async removeUnwantedSnapshots() {
      // A running server removes them within a minute: it knows which are being read.
      if (await hasLiveWorker(dataDirectory)) return;
      await opened?.rows.removeUnwantedSnapshots((id) => removeSnapshotOf(dataDirectory, id), log);
    },
  };
  return await collect(sources, { ...(await retentionOf(config)), ...options, now: new Date() });
}

async function requireAccess(dataDirectory: string): Promise<void> {
  try {
    await access(dataDirectory, constants.R_OK | constants.W_OK);
  } catch (cause) {
    const message = `the data directory ${dataDirectory} belongs to another user: run as its owner`;
    throw new SandboxError("permission_denied", message, { cause });
  }
}
