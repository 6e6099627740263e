import { chmod, chown, mkdir, stat } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import type { MakeDirectoryRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import { aboutFile } from "./errors.ts";
import { absolutePath } from "./path.ts";
import { bytesOfPath } from "./path-bytes.ts";

/** Makes a directory with its parents. An existing directory stays unchanged. */
export async function makeDirectory(request: MakeDirectoryRequest, _stream: Stream, system: System): Promise<object> {
  const path = absolutePath(request.path);
  await aboutFile(path, () => make(system.locate(path), request.mode === 0 ? 0o755 : request.mode & 0o7777, system));
  return {};
}

/** Makes the directories that a new file at `path` needs. */
export async function makeParents(path: string, system: System): Promise<void> {
  await make(dirname(path), 0o755, system);
}

async function make(path: string, mode: number, { owner }: System): Promise<void> {
  const first = await makeMissing(path);
  if (first === undefined) return;
  for (const folder of foldersBetween(first, path)) {
    if (owner !== undefined) await chown(bytesOfPath(folder), owner.uid, owner.gid);
    await chmod(bytesOfPath(folder), folder === path ? mode : 0o755);
  }
}

/** Returns the highest directory that was made. */
async function makeMissing(path: string): Promise<string | undefined> {
  const bytes = bytesOfPath(path);
  if (typeof bytes === "string") return await mkdir(bytes, { recursive: true });
  // Node returns the highest directory as text, in which bytes that are not UTF-8 are lost.
  const parent = await makeMissing(dirname(path));
  const made = await mkdir(bytes).then(
    () => true,
    async (error: NodeJS.ErrnoException) => {
      if (error.code === "EEXIST" && (await stat(bytes)).isDirectory()) return false;
      throw error;
    },
  );
  return parent ?? (made ? path : undefined);
}

/** The directories from `first` down to `last`, both included. */
function foldersBetween(first: string, last: string): readonly string[] {
  const names = relative(first, last).split("/").filter(Boolean);
  return names.reduce((folders, name) => [...folders, join(folders.at(-1)!, name)], [first]);
}
