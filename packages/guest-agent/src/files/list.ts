import { create } from "@bufbuild/protobuf";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import { type FileStat, FileStatsSchema, type PathRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import { aboutFile } from "./errors.ts";
import { absolutePath } from "./path.ts";
import { bytesOfPath, textOfPath } from "./path-bytes.ts";
import { entryAt } from "./stat.ts";

/** Entries examined at once, and sent together unless their names are long. */
const batchEntries = 64;
/** Well below the limit of a message; one entry takes at most about 9000 bytes. */
const batchBytes = 24 * 1024;

/** Sends the entries of a directory, sorted by name. A symbolic link is listed as such. */
export async function list(request: PathRequest, stream: Stream, system: System): Promise<object> {
  const path = absolutePath(request.path);
  await aboutFile(path, async () => {
    const names = (await readdir(bytesOfPath(system.locate(path)), { encoding: "buffer" }))
      .map(textOfPath)
      .toSorted((a, b) => (a < b ? -1 : 1));
    for (let at = 0; at < names.length; at += batchEntries) {
      const batch = names.slice(at, at + batchEntries);
      await send(await Promise.all(batch.map((name) => entryOf(join(path, name), system))), stream);
    }
  });
  return {};
}

/** Undefined: the entry was removed meanwhile. */
async function entryOf(path: string, system: System): Promise<FileStat | undefined> {
  try {
    return await entryAt(path, system.locate(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

async function send(entries: readonly (FileStat | undefined)[], stream: Stream): Promise<void> {
  let batch: FileStat[] = [];
  let bytes = 0;
  for (const entry of entries) {
    if (entry === undefined) continue;
    if (bytes > batchBytes) {
      await stream.sendMessage(FileStatsSchema, create(FileStatsSchema, { entries: batch }));
      batch = [];
      bytes = 0;
    }
    batch.push(entry);
    // A UTF-16 unit takes at most three bytes of UTF-8; the other fields take about 100 bytes.
    bytes += 3 * (entry.name.length + entry.path.length + entry.linkTarget.length) + 128;
  }
  if (batch.length > 0) await stream.sendMessage(FileStatsSchema, create(FileStatsSchema, { entries: batch }));
}
