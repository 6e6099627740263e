import { lstat, readlink, stat as statFile } from "node:fs/promises";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import type { FileStat, PathRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import { aboutFile } from "./errors.ts";
import { fileStat } from "./file-stat.ts";
import { absolutePath } from "./path.ts";
import { bytesOfPath, textOfPath } from "./path-bytes.ts";

/** Describes the file at a path. A symbolic link is followed, unless `noFollow` asks for the link itself. */
export async function stat(request: PathRequest, _stream: Stream, system: System): Promise<FileStat> {
  const path = absolutePath(request.path);
  const located = system.locate(path);
  return await aboutFile(path, async () =>
    request.noFollow ? await entryAt(path, located) : fileStat(path, await statFile(bytesOfPath(located))),
  );
}

/** Describes the entry at a path without following a link. `path` is the path as the caller knows it. */
export async function entryAt(path: string, located: string): Promise<FileStat> {
  const stats = await lstat(bytesOfPath(located));
  return fileStat(
    path,
    stats,
    stats.isSymbolicLink() ? textOfPath(await readlink(bytesOfPath(located), { encoding: "buffer" })) : undefined,
  );
}
