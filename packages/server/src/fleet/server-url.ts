import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ServerConfig } from "../config.ts";
import { writePrivateFile } from "../private-file.ts";

/**
 * Where the fleet's server listens: the configured address, the one that `osb worker join` has stored, or the server of
 * this host.
 */
export async function serverUrlOf({ fleetUrl, dataDirectory, fleetPort }: ServerConfig): Promise<string> {
  return fleetUrl ?? (await storedServerUrl(dataDirectory)) ?? `https://127.0.0.1:${fleetPort}`;
}

/** Undefined: this host has not joined a fleet. */
export async function storedServerUrl(dataDirectory: string): Promise<string | undefined> {
  try {
    return (await readFile(fileIn(dataDirectory), "utf8")).trim();
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw cause;
  }
}

export async function storeServerUrl(dataDirectory: string, url: string): Promise<void> {
  await writePrivateFile(fileIn(dataDirectory), `${url}\n`);
}

function fileIn(dataDirectory: string): string {
  return join(dataDirectory, "fleet-server");
}
