import { statfs } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** @throws `unavailable` when the file system of `directory` has less than `needMib` free */
export async function checkFreeSpace(directory: string, what: string, needMib: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const freeMib = Math.floor((bavail * bsize) / 2 ** 20);
  if (freeMib >= needMib) return;
  throw new SandboxError(
    "unavailable",
    `building ${what} needs ${needMib} MiB in ${directory}, where ${freeMib} MiB are free: ` +
      `make room there or set OPENSANDBOX_IMAGES_DIR to another directory`,
  );
}
