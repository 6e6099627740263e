import { statfs } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** What an operation that fails on a disk with less room than this has most likely failed of. */
const noRoomBytes = 2 ** 20;

/** Does what needs room in `directory`. @throws `no_capacity` for whatever fails since the host's disk is full */
export async function orNoRoom<Result>(directory: string, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    throw await asRoomError(error, directory);
  }
}

async function asRoomError(error: unknown, directory: string): Promise<unknown> {
  const code = (error as NodeJS.ErrnoException).code;
  const told = code === "ENOSPC" || code === "EDQUOT";
  const unclear = code === "internal" || code === "unavailable";
  if (!told && !(unclear && (await freeBytes(directory)) < noRoomBytes)) return error;
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
