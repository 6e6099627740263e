import { statfs } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** With less free space than this, an unexplained failure counts as a full disk. */
const fullDiskBytes = 2 ** 20;

/** Does work that writes to `directory`. @throws `no_capacity` when it fails because the host's disk is full */
export async function orNoRoom<Result>(directory: string, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    throw await asRoomError(error, directory);
  }
}

async function asRoomError(error: unknown, directory: string): Promise<unknown> {
  const code = (error as NodeJS.ErrnoException).code;
  const isFull = code === "ENOSPC" || code === "EDQUOT";
  const unclear = code === "internal" || code === "unavailable";
  if (!isFull && !(unclear && (await freeBytes(directory)) < fullDiskBytes)) return error;
  return new SandboxError(
    "no_capacity",
    "the host's disk is full: delete sandboxes or checkpoints",
    { resource: "disk" },
    { cause: error },
  );
}

async function freeBytes(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return bavail * bsize;
}
