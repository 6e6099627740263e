import { randomBytes } from "node:crypto";
import { constants, type Stats } from "node:fs";
import { type FileHandle, lstat, open, readlink, rename, unlink } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { fileCredit, type Stream } from "@opensandbox/wire/guest/channel.ts";
import type { WriteFileRequest } from "@opensandbox/wire/guest/messages_pb.js";
import type { System } from "#system/system.ts";
import { aboutFile } from "./errors.ts";
import { makeParents } from "./make-directory.ts";
import { absolutePath } from "./path.ts";
import { bytesOfPath, textOfPath } from "./path-bytes.ts";

/**
 * Writes a temporary file in the same directory and renames it when the whole content has arrived. Nothing is flushed
 * to the disk, as with the writes of a command; `sync` does that.
 */
export async function writeFile(request: WriteFileRequest, stream: Stream, system: System): Promise<{ bytes: bigint }> {
  const path = absolutePath(request.path);
  stream.raiseCredit(fileCredit);
  return await aboutFile(path, async () => {
    const { target, stats } = await followLinks(system.locate(path));
    if (stats?.isDirectory() === true) throw new SandboxError("invalid_argument", `${path} is a directory`);
    if (stats !== undefined && !stats.isFile()) return { bytes: await writeInPlace(target, stream) };
    await makeParents(target, system);
    const mode = request.mode === 0 ? (stats?.mode ?? 0o644) & 0o7777 : request.mode & 0o7777;
    return { bytes: await replace({ target, mode, owner: stats ?? system.owner }, stream) };
  });
}

interface Replacement {
  readonly target: string;
  readonly mode: number;
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
}

async function replace({ target, mode, owner }: Replacement, stream: Stream): Promise<bigint> {
  const temporary = join(dirname(target), `.opensandbox-${randomBytes(8).toString("hex")}`);
  await using undo = new AsyncDisposableStack();
  const file = await open(bytesOfPath(temporary), constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  undo.defer(() => unlink(bytesOfPath(temporary)));
  const bytes = await closing(file, async () => {
    const written = await writeAll(file, stream);
    if (owner !== undefined) await file.chown(owner.uid, owner.gid);
    await file.chmod(mode);
    return written;
  });
  await rename(bytesOfPath(temporary), bytesOfPath(target));
  undo.move();
  return bytes;
}

/** Writes to a device or a named pipe, which cannot be replaced. */
async function writeInPlace(target: string, stream: Stream): Promise<bigint> {
  const file = await open(bytesOfPath(target), constants.O_WRONLY | constants.O_NONBLOCK);
  return await closing(file, () => writeAll(file, stream));
}

/** Closes the file before success is reported: closing can report a failed write. */
async function closing<Result>(file: FileHandle, action: () => Promise<Result>): Promise<Result> {
  await using _ = file;
  return await action();
}

async function writeAll(file: FileHandle, stream: Stream): Promise<bigint> {
  let bytes = 0;
  for (;;) {
    // Content that arrives during a write is written together.
    const batch = await stream.nextAll();
    if (batch.some(({ kind }) => kind === "message"))
      throw new SandboxError("invalid_argument", "the content of a file must be sent as data");
    const content = batch.filter(({ kind }) => kind === "data").map(({ payload }) => payload);
    await writeParts(file, content);
    bytes += lengthOf(content);
    if (batch.at(-1)?.kind === "end") return BigInt(bytes);
  }
}

async function writeParts(file: FileHandle, parts: readonly Uint8Array[]): Promise<void> {
  let rest = parts;
  while (lengthOf(rest) > 0) {
    const { bytesWritten } = await file.writev([...rest]);
    // A disk that fills up takes a part. The next write reports the reason.
    if (bytesWritten === lengthOf(rest)) return;
    rest = [Buffer.concat(rest).subarray(bytesWritten)];
  }
}

function lengthOf(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, { length }) => sum + length, 0);
}

// Linux follows as many links (path_resolution(7)).
const maxLinks = 40;

/** The file that a write to `path` reaches, through symbolic links; it need not exist yet. */
async function followLinks(path: string): Promise<{ target: string; stats: Stats | undefined }> {
  let target = path;
  for (let links = 0; links <= maxLinks; links += 1) {
    const stats = await lstat(bytesOfPath(target)).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return undefined;
      throw error;
    });
    if (stats?.isSymbolicLink() !== true) return { target, stats };
    target = resolve(dirname(target), textOfPath(await readlink(bytesOfPath(target), { encoding: "buffer" })));
  }
  throw new SandboxError("invalid_argument", `${path}: its symbolic links form a loop`);
}
