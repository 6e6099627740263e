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
import { bytesOfPath } from "./path-bytes.ts";

const chunkBytes = 8 * maxDataBytes;

/** Sends the description of the file, then its bytes. */
export async function readFile(request: ReadFileRequest, stream: Stream, system: System): Promise<object> {
  const path = absolutePath(request.path);
  await aboutFile(path, async () => {
    // Non-blocking: opening a named pipe without a writer would block a thread of the agent.
    await using file = await open(bytesOfPath(system.locate(path)), constants.O_RDONLY | constants.O_NONBLOCK);
    const stats = await file.stat();
    if (!stats.isFile()) {
      const what = stats.isDirectory() ? "is a directory" : "is not a regular file";
      throw new SandboxError("invalid_argument", `${path} ${what}`);
    }
    const start = Number(request.offset);
    const requestedEnd = request.length === 0n ? Infinity : start + Number(request.length);
    // A file of /proc has no size. A file that grows meanwhile is sent up to the size that it had.
    const end = stats.size === 0 ? requestedEnd : Math.min(requestedEnd, stats.size);
    // A file of /sys reports a whole page as its size, and any file may shrink: a file that ends within the first chunk
    // has the size that was read.
    const wanted = Math.max(0, Math.min(chunkBytes, end - start));
    const first = await readFully(file, start, wanted);
    const endsEarly = first.length < wanted && (start === 0 || first.length > 0);
    if (endsEarly && stats.size > 0) stats.size = start + first.length;
    await stream.sendMessage(FileStatSchema, fileStat(path, stats));
    if (first.length > 0) await stream.sendData(0, first);
    if (first.length === wanted) await sendBytes(file, start + first.length, end, stream);
  });
  return {};
}

/** Up to `length` bytes at `start`: less only where the file ends before. The kernel may return less than it has. */
async function readFully(file: FileHandle, start: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await file.read(buffer, filled, length - filled, start + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return buffer.subarray(0, filled);
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
