import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import type { DatabaseContents } from "@opensandbox/control-plane";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { SnapshotRecord } from "@opensandbox/worker";

// A backup is a directory: `manifest.json`, which is written last, `opensandbox.sqlite`, `api-key` when the data
// directory had one, `snapshots/` and, if wanted, `images/`.

export const databaseName = "opensandbox.sqlite";
export const apiKeyName = "api-key";
const manifestName = "manifest.json";

/** Raise it when this version could not read the manifests of the next one. */
const formatVersion = 1;

export interface BackupManifest {
  readonly createdAt: string;
  readonly dataDirectory: string;
  readonly database: { readonly bytes: number; readonly sha256: string };
  readonly contents: DatabaseContents;
  readonly hasApiKey: boolean;
  readonly snapshots: readonly SnapshotRecord[];
  /** Whether snapshots were to be part of the backup. */
  readonly withSnapshots: boolean;
  /** Snapshots that the database names and that the data directory does not have. */
  readonly missing: readonly string[];
  readonly withImages: boolean;
}

export function manifestPath(backup: string): string {
  return join(backup, manifestName);
}

/** The manifest as text, with a checksum over itself. */
export function encodeBackup(manifest: BackupManifest): string {
  const body = { formatVersion, ...manifest };
  return `${JSON.stringify({ ...body, checksum: checksum(body) }, undefined, 2)}\n`;
}

/** @throws `invalid_argument` when the directory is not a whole backup of a version that this one reads */
export async function readBackup(backup: string): Promise<BackupManifest> {
  const text = await readFile(manifestPath(backup), "utf8").catch((cause: NodeJS.ErrnoException) => {
    if (cause.code !== "ENOENT") throw cause;
    throw invalid(backup, "it has no manifest.json");
  });
  const { checksum: stored, ...body } = parse(backup, text);
  if (stored !== checksum(body)) throw invalid(backup, "its manifest.json does not match its checksum");
  const { formatVersion: version, ...manifest } = body;
  if (version !== formatVersion) {
    throw invalid(backup, `it has format ${String(version)}, and this version reads format ${formatVersion}`);
  }
  // The checksum shows that this program has written it.
  return manifest as unknown as BackupManifest;
}

function parse(backup: string, text: string): Record<string, unknown> {
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch {
    throw invalid(backup, "its manifest.json is not valid JSON");
  }
  if (typeof found !== "object" || found === null) throw invalid(backup, "its manifest.json is not an object");
  return found as Record<string, unknown>;
}

function invalid(backup: string, why: string): SandboxError {
  return new SandboxError("invalid_argument", `${backup} is not a whole backup: ${why}`);
}

function checksum(body: object): string {
  return createHash("sha256").update(JSON.stringify(body)).digest("hex");
}

export async function hashFile(file: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(file), hash);
  return hash.digest("hex");
}
