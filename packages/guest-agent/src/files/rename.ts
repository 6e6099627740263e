import { rename as renameFile } from "node:fs/promises";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import type { RenameRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import { aboutFile, fileError } from "./errors.ts";
import { makeParents } from "./make-directory.ts";
import { moveAcross } from "./move-across.ts";
import { absolutePath } from "./path.ts";
import { bytesOfPath } from "./path-bytes.ts";

/** Moves a file or a directory, and makes the directories above its new place. */
export async function rename(request: RenameRequest, _stream: Stream, system: System): Promise<object> {
  const from = absolutePath(request.from);
  const to = absolutePath(request.to);
  await aboutFile(to, () => makeParents(system.locate(to), system));
  try {
    await move(system.locate(from), system.locate(to));
  } catch (error) {
    // The new parent exists, so ENOENT is about the old path, and every other error about the new one.
    throw fileError(error, (error as NodeJS.ErrnoException).code === "ENOENT" ? from : to);
  }
  return {};
}

async function move(from: string, to: string): Promise<void> {
  try {
    await renameFile(bytesOfPath(from), bytesOfPath(to));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EXDEV") throw error;
    await moveAcross(from, to);
  }
}
