import { closeSync, openSync, readFileSync, statfsSync } from "node:fs";
import { basename } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { mounts } from "./file-systems.ts";
import { resizeExt4 } from "./libc.ts";

const workspace = "/home/sandbox";

/** The driver learns of a new size by an interrupt, which takes milliseconds. */
const pollMs = 2;
const diskTimeoutMs = 20_000;

/**
 * Enlarges the workspace's ext4 file system, while it is mounted, to the size of its disk. The kernel journals each step:
 * an interrupted resize leaves a file system of the size reached so far.
 */
export async function growWorkspace(bytes: bigint): Promise<void> {
  const device = mounts().find(({ mountpoint }) => mountpoint === workspace)?.source;
  if (device === undefined) throw new SandboxError("unavailable", `no disk is mounted on ${workspace}`);
  await untilDiskHas(bytes, basename(device));
  const directory = openSync(workspace, "r");
  try {
    resizeExt4(directory, bytes / BigInt(statfsSync(workspace).bsize));
  } finally {
    closeSync(directory);
  }
}

async function untilDiskHas(bytes: bigint, disk: string): Promise<void> {
  const giveUp = performance.now() + diskTimeoutMs;
  // The kernel counts sectors of 512 bytes on every disk.
  const size = (): bigint => BigInt(readFileSync(`/sys/class/block/${disk}/size`, "latin1").trim()) * 512n;
  while (size() < bytes) {
    if (performance.now() > giveUp) {
      throw new SandboxError(
        "unavailable",
        `the disk ${disk} did not grow in time: it has ${size()} of ${bytes} bytes`,
      );
    }
    await sleep(pollMs);
  }
}
