import { posix } from "node:path";
import { type EntryInfo, entryInfoOf } from "@opensandbox/wire/e2b/envd.ts";
import type { FileEntry, GuestFiles } from "@opensandbox/wire/worker/files.ts";
import { orMissing } from "../e2b-context.ts";

/** Describes the entry at a path. @throws `not_found` */
export async function entryAt(files: GuestFiles, path: string, signal: AbortSignal): Promise<EntryInfo> {
  return await describeEntry(files, await files.stat(path, { noFollow: true }, signal), signal);
}

/** Describes an entry. A symbolic link is described by the file that it leads to. */
export async function describeEntry(files: GuestFiles, entry: FileEntry, signal: AbortSignal): Promise<EntryInfo> {
  if (entry.kind !== "symlink") return entryInfoOf(entry);
  const path = posix.resolve(posix.dirname(entry.path), entry.linkTarget ?? "");
  return entryInfoOf(entry, { path, target: await orMissing(files.stat(entry.path, {}, signal)) });
}
