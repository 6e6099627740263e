import { stat, statfs } from "node:fs/promises";
import type { ServerConfig } from "../config.ts";
import type { CollectionOptions } from "./collect.ts";

/** The default share of the data directory's file system that the cache may keep of what nothing uses. */
const cacheShare = 0.2;

/** The cache gives way below this share of free disk, before a host refuses machines at half of it (admission.ts). */
const reservedShare = 0.1;

/** The retention that the settings and the free disk ask for. */
export async function retentionOf(
  config: ServerConfig,
): Promise<Pick<CollectionOptions, "maxBytes" | "shortBytes" | "retentionDays">> {
  const { cacheMaxBytes, retentionDays, dataDirectory, templatesDirectory } = config;
  const { blocks, bavail, bsize } = await statfs(dataDirectory);
  const maxBytes = cacheMaxBytes ?? Math.floor(blocks * bsize * cacheShare);
  const lacking = Math.max(0, Math.floor((blocks * reservedShare - bavail) * bsize));
  const isSameDisk = (await deviceOf(templatesDirectory)) === (await deviceOf(dataDirectory));
  return { maxBytes, shortBytes: isSameDisk ? lacking : 0, retentionDays };
}

/** Undefined for a directory that does not exist. */
async function deviceOf(directory: string): Promise<number | undefined> {
  try {
    return (await stat(directory)).dev;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
