import { readFile, writeFile } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/**
 * Makes the kernel send one request after another to the images that a machine's storage daemon shows by FUSE. The
 * daemon of QEMU 10.0 receives a request into the buffer of a write that it still serves, and mixes up their bytes.
 * Firecracker waits for each of its requests, so only the kernel's reading ahead overlaps with others.
 * `pid`: a process in the machine's mount name space.
 * @throws `unavailable` when the host does not allow that; the machine must not start
 */
export async function withoutReadAhead(pid: number): Promise<void> {
  try {
    for (const device of fuseDevices(await readFile(`/proc/${pid}/mountinfo`, "utf8"))) {
      await writeFile(`/sys/class/bdi/${device}/read_ahead_kb`, "0");
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const message = `cannot switch off read-ahead on a machine's disks: ${reason}`;
    throw new SandboxError("unavailable", message, { cause: error });
  }
}

/** The device numbers of the FUSE mounts in a `/proc/PID/mountinfo` (proc_pid_mountinfo(5)). Pure. */
export function fuseDevices(mountinfo: string): readonly string[] {
  return mountinfo.split("\n").flatMap((line) => {
    const [mount = "", superBlock = ""] = line.split(" - ");
    const device = mount.split(" ")[2];
    return superBlock.startsWith("fuse ") && device !== undefined ? [device] : [];
  });
}
