import { stat as statFile } from "node:fs/promises";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import type { FileStat, PathRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import { aboutFile } from "./errors.ts";
import { fileStat } from "./file-stat.ts";
import { absolutePath } from "./path.ts";

/** What is at a path; of a symbolic link, what it leads to. */
export async function stat(request: PathRequest, _stream: Stream, system: System): Promise<FileStat> {
  const path = absolutePath(request.path);
  return await aboutFile(path, async () => fileStat(path, await statFile(system.locate(path))));
}
