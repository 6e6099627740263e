import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, rm, stat, writeFile } from "node:fs/promises";
import { basename, delimiter, join } from "node:path";
import { promisify } from "node:util";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";

const runFile = promisify(execFile);

/** Why disks cannot be mounted here, for the option `skip` of a test. `programs` are needed too. */
export function missingForDisks(...programs: readonly string[]): string | false {
  if (process.getuid?.() !== 0) return "only root can mount a file system";
  const device = ["/dev/fuse", "/dev/loop-control"].find((path) => !existsSync(path));
  if (device !== undefined) return `this host has no ${device}`;
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  const isFound = (program: string): boolean => folders.some((folder) => existsSync(join(folder, program)));
  const missing = ["qemu-storage-daemon", "qemu-img", "losetup", ...programs].find((program) => !isFound(program));
  return missing === undefined ? false : `this host has no ${missing}`;
}

/** Runs a program that must succeed within two minutes. Returns its standard output. */
export async function run(program: string, ...args: readonly string[]): Promise<string> {
  const { stdout } = await runFile(program, [...args], { timeout: 120_000 });
  return stdout.trim();
}

export interface MountOptions {
  /** The raw image. */
  readonly image: string;
  /** Every write and flush is appended to this file; absent: the image is left as it is, and writes go to a layer over it. */
  readonly log?: string;
  /** Where the file system appears. */
  readonly mountpoint: string;
  /** An empty directory for sockets and layers. */
  readonly scratch: string;
  /** Runs on the exported disk before it is mounted. */
  readonly prepare?: (disk: string) => Promise<void>;
}

/**
 * Mounts the file system of an image. QEMU's storage daemon serves the disk as a file by FUSE, and a loop device leads to
 * that file: every write and flush of the file system reaches the daemon. Disposing it unmounts.
 *
 * The daemon of QEMU 10.0 mixes up the bytes of requests that it serves at the same time. A loop device without direct
 * I/O sends one request after another, unless the kernel reads ahead.
 */
export async function mountDisk(options: MountOptions): Promise<AsyncDisposable> {
  const { mountpoint, scratch, prepare } = options;
  await using undo = new AsyncDisposableStack();
  const disk = join(scratch, "disk");
  await writeFile(disk, "");
  undo.defer(() => rm(disk, { force: true }));
  undo.use(await exportDisk(await nodesOf(options), disk));
  await forbidReadAhead(disk);
  await prepare?.(disk);
  const device = await run("losetup", "--find", "--show", "--direct-io=off", disk);
  undo.defer(async () => void (await run("losetup", "--detach", device)));
  await mkdir(mountpoint, { recursive: true });
  await run("mount", device, mountpoint);
  undo.defer(() => unmount(mountpoint, device));
  const owned = undo.move();
  return { [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function forbidReadAhead(file: string): Promise<void> {
  const { dev } = await stat(file);
  // An anonymous device: its major number is 0.
  await writeFile(`/sys/class/bdi/0:${dev}/read_ahead_kb`, "0");
}

/** Waits for killed processes, which the kernel takes off the file system in its own time. */
async function unmount(mountpoint: string, device: string): Promise<void> {
  await eventually(
    `${mountpoint} is not in use`,
    () =>
      run("umount", mountpoint).then(
        () => true,
        (error: Error) => {
          if (!error.message.includes("busy")) throw error;
          return false;
        },
      ),
    { withinMs: 60_000, everyMs: 100 },
  );
  // A mount name space that was made meanwhile holds the file system until it has gone too.
  const inUse = ["ext4", "xfs"].map((type) => `/sys/fs/${type}/${basename(device)}`);
  await eventually(`${device} has no file system`, () => !inUse.some((path) => existsSync(path)), {
    ...{ withinMs: 60_000, everyMs: 20 },
  });
}

/** The daemon's description of a disk, whose last node is named `disk`. */
async function nodesOf(options: Pick<MountOptions, "image" | "log" | "scratch">): Promise<string[]> {
  const { image, log, scratch } = options;
  const raw = [
    "--blockdev",
    `driver=file,node-name=raw,filename=${image},read-only=${log === undefined ? "on" : "off"}`,
  ];
  if (log !== undefined) {
    await writeFile(log, "");
    return [
      ...raw,
      ...["--blockdev", `driver=file,node-name=log,filename=${log}`],
      ...["--blockdev", "driver=blklogwrites,node-name=disk,file=raw,log=log"],
    ];
  }
  const layer = join(scratch, "layer.qcow2");
  await rm(layer, { force: true });
  await run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", layer);
  return [
    ...raw,
    ...["--blockdev", `driver=file,node-name=layer,filename=${layer}`],
    // Nothing of the layer has to survive this process.
    ...["--blockdev", "driver=qcow2,node-name=disk,file=layer,backing=raw,cache.no-flush=on"],
  ];
}

/** Serves the node `disk` as the file `path`. */
async function exportDisk(nodes: readonly string[], path: string): Promise<AsyncDisposable> {
  const fuse = `type=fuse,id=disk,node-name=disk,mountpoint=${path},writable=on,growable=off`;
  const daemon = spawn("qemu-storage-daemon", [...nodes, "--export", fuse], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  const exit = once(daemon, "exit");
  const ended = { code: undefined as number | null | undefined };
  void exit.then(([code]: unknown[]) => (ended.code = code as number | null));
  await using undo = new AsyncDisposableStack();
  undo.defer(async () => {
    daemon.kill("SIGTERM");
    await within("the storage daemon ends", exit, 60_000);
  });
  await eventually(
    "the disk is exported",
    async () => {
      if (ended.code !== undefined) throw new Error(`qemu-storage-daemon ended with ${ended.code}`);
      return (await stat(path)).size > 0;
    },
    { withinMs: 60_000, everyMs: 20 },
  );
  const owned = undo.move();
  return { [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
