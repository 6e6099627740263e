import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Stream } from "@opensandbox/wire/guest/channel.ts";
import { maxDataBytes } from "@opensandbox/wire/guest/frame.ts";
import { FileStatSchema, type ReadFileRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import { aboutFile } from "./errors.ts";
import { fileStat } from "./file-stat.ts";
import { absolutePath } from "./path.ts";

const chunkBytes = 8 * maxDataBytes;

/** Sends what the file is, then its bytes. */
export async function readFile(request: ReadFileRequest, stream: Stream, system: System): Promise<object> {
  const path = absolutePath(request.path);
  await aboutFile(path, async () => {
    // Without waiting: a named pipe would hold a thread of the agent for as long as nobody writes to it.
    await using file = await open(system.locate(path), constants.O_RDONLY | constants.O_NONBLOCK);
    const stats = await file.stat();
    if (!stats.isFile()) {
      const what = stats.isDirectory() ? "is a directory" : "is no ordinary file";
      throw new SandboxError("invalid_argument", `${path} ${what}`);
    }
    await stream.sendMessage(FileStatSchema, fileStat(path, stats));
    const end = request.length === 0n ? Infinity : Number(request.offset + request.length);
    // What the kernel makes up while it is read, as in /proc, has no size. What grows is sent as it was.
    await sendBytes(file, Number(request.offset), stats.size === 0 ? end : Math.min(end, stats.size), stream);
  });
  return {};
}

async function sendBytes(file: FileHandle, start: number, end: number, stream: Stream): Promise<void> {
  const buffer = Buffer.allocUnsafe(chunkBytes);
  for (let at = start; at < end;) {
    const { bytesRead } = await file.read(buffer, 0, Math.min(chunkBytes, end - at), at);
    if (bytesRead === 0) return;
    await stream.sendData(0, buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
}
