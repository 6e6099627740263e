import { statfs } from "node:fs/promises";
import type { ServerConfig } from "../config.ts";
import type { CollectionOptions } from "./collect.ts";

/** The default share of the data directory's file system that the cache may keep of what nothing uses. */
const cacheShare = 0.2;

/** The retention that the settings ask for. */
export async function retentionOf(
  config: ServerConfig,
): Promise<Pick<CollectionOptions, "maxBytes" | "retentionDays">> {
  const { cacheMaxBytes, retentionDays, dataDirectory } = config;
  if (cacheMaxBytes !== undefined) return { maxBytes: cacheMaxBytes, retentionDays };
  const { blocks, bsize } = await statfs(dataDirectory);
  return { maxBytes: Math.floor(blocks * bsize * cacheShare), retentionDays };
}
