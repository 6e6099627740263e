import { create } from "@bufbuild/protobuf";
import type { Stats } from "node:fs";
import { basename } from "node:path";
import { type FileStat, FileStatSchema } from "@opensandbox/wire/guest/messages_pb.js";
import { nameOfGroup, nameOfUser } from "#system/users.ts";

/** Describes a file. `path` is the absolute path as the caller knows it. */
export function fileStat(path: string, stats: Stats, linkTarget = ""): FileStat {
  return create(FileStatSchema, {
    name: basename(path),
    path,
    kind: kindOf(stats),
    size: BigInt(stats.size),
    mode: stats.mode & 0o7777,
    uid: stats.uid,
    gid: stats.gid,
    modifiedMs: BigInt(Math.floor(stats.mtimeMs)),
    linkTarget,
    owner: nameOfUser(stats.uid) ?? "",
    group: nameOfGroup(stats.gid) ?? "",
  });
}

function kindOf(stats: Stats): string {
  if (stats.isFile()) return "file";
  if (stats.isDirectory()) return "directory";
  if (stats.isSymbolicLink()) return "symlink";
  return "other";
}
