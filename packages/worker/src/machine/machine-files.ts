import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { chmod, chown, copyFile, link, mkdir, open, rename, rm, stat, symlink } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { createOverlay } from "#disks/qcow2.ts";
import { together } from "#host/together.ts";
import { contentRecordOf } from "#images/artifact.ts";
import type { Hypervisor } from "#hypervisor/hypervisor.ts";
import type { MachineFiles } from "#snapshots/manifest.ts";
import type { BootFiles } from "./host.ts";

/** Owner of files that a machine's process uses. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** Names of an image's files in a machine's directory. */
export const imageFiles: MachineFiles = {
  kernel: "kernel",
  initramfs: "initramfs",
  memoryBase: "memory.zero",
  disks: [
    { name: "rootfs", base: "rootfs.base", layers: [], writable: true },
    { name: "workspace", base: "workspace.base", layers: [], writable: true },
    { name: "agent", base: "agent.base", layers: [], writable: false },
  ],
};

/** Links the files of an image into a machine's directory. Returns them with the records of their contents. */
export async function linkImage(files: BootFiles, directory: string): Promise<MachineFiles> {
  const sources: Readonly<Record<string, string>> = {
    [imageFiles.kernel]: files.kernel,
    [imageFiles.initramfs]: files.initramfs,
    "rootfs.base": files.rootfs,
    "workspace.base": files.workspace,
    "agent.base": files.agentDisk,
  };
  const contents = await together(
    Object.entries(sources).map(async ([file, source]) => {
      await share(source, join(directory, file));
      const record = await contentRecordOf(source);
      return record === undefined ? [] : [{ file, ...record }];
    }),
  );
  return { ...imageFiles, contents: contents.flat() };
}

/** The machine that is to read shared files. */
export interface Reader {
  readonly user: Owner | undefined;
  /** Copies files that are private to another tenant, which has published them. */
  readonly fromPublic?: boolean;
}

/**
 * Links files of one directory into another. With a `reader`, the links are readable for it.
 * @throws `permission_denied` for files of another tenant that are not public
 */
export async function linkFiles(names: readonly string[], from: string, to: string, reader?: Reader): Promise<void> {
  await together(names.map((name) => linkFile(join(from, name), join(to, name), reader)));
}

async function linkFile(file: string, at: string, reader: Reader | undefined): Promise<void> {
  if (!(await isForeign(file, reader?.user))) {
    await share(file, at);
  } else if (reader?.fromPublic === true) {
    await copy(file, at, reader.user);
  } else {
    throw new SandboxError(
      "permission_denied",
      "the snapshot belongs to another organization, which has not published it",
    );
  }
}

/** Whether a file is private to a tenant other than the user's. */
async function isForeign(file: string, user: Owner | undefined): Promise<boolean> {
  if (user === undefined) return false;
  const { mode, gid } = await stat(file);
  return (mode & 0o004) === 0 && gid !== user.gid;
}

/** A tenant's private files stay its own: another tenant receives the content in files of its own. */
async function copy(file: string, at: string, tenant: Owner | undefined): Promise<void> {
  await copyFile(file, at, constants.COPYFILE_FICLONE);
  await seal(at, tenant);
}

/** Replaces the machine's memory base by zeros. */
export async function withZeroMemory(
  files: MachineFiles,
  zeroMemory: string,
  directory: string,
): Promise<MachineFiles> {
  const memoryBase = "memory.zero";
  // An earlier boot may have left this file.
  await rm(join(directory, memoryBase), { force: true });
  await share(zeroMemory, join(directory, memoryBase));
  return { ...files, memoryBase };
}

/** Makes a hard link, so that the content lives as long as its last user; a symbolic link where that is impossible. */
async function share(file: string, at: string): Promise<void> {
  try {
    await link(file, at);
  } catch (error) {
    // Images may be on another file system, or belong to another user (protected_hardlinks in proc_sys_fs(5)).
    if (!["EXDEV", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    await symlink(file, at);
  }
}

/** Names a disk's layer. A number is never used twice in a directory. */
export function layerName(disk: string, index: number): string {
  return `${disk}-${index}.qcow2`;
}

/** The number in a layer's name; NaN for any other file. */
export function layerNumber(file: string): number {
  return Number(/-(\d+)\.qcow2$/.exec(file)?.[1]);
}

/** Makes an empty file that `owner` writes to. */
export async function makeOwned(file: string, owner: Owner | undefined): Promise<void> {
  await using handle = await open(file, "wx", 0o600);
  if (owner !== undefined) await handle.chown(owner.uid, owner.gid);
}

/** Makes an empty layer that `owner` writes to. `bytes`: the virtual size of the disk. */
export async function makeLayer(file: string, bytes: number, owner: Owner | undefined): Promise<void> {
  await createOverlay(file, bytes);
  if (owner !== undefined) await chown(file, owner.uid, owner.gid);
}

/**
 * Lets the process of a machine enter the machine's directory, which no other machine's process can. It may make files
 * there only where its hypervisor does.
 */
export async function giveDirectory(
  directory: string,
  user: Pick<Owner, "uid"> | undefined,
  { writesDirectory }: Pick<Hypervisor, "writesDirectory">,
): Promise<void> {
  if (user === undefined) return;
  if (writesDirectory) {
    await chmod(directory, 0o700);
    await chown(directory, user.uid, user.uid);
  } else {
    await chown(directory, 0, user.uid);
    await chmod(directory, 0o710);
  }
}

/**
 * Protects a file that never changes again: it becomes root's, readable for the machines of `tenant`, or for all
 * machines without one. A worker that is not root keeps its files.
 */
export async function seal(file: string, tenant: Owner | undefined): Promise<void> {
  if (process.getuid?.() === 0) await chown(file, 0, tenant?.gid ?? 0);
  await chmod(file, tenant === undefined ? 0o444 : 0o440);
}

/**
 * Provides a sparse file of `mib` MiB: the memory base of machines that boot. A file of another size, which a power cut
 * may leave, is replaced.
 */
export async function provideZeroMemory(dataDirectory: string, mib: number): Promise<string> {
  const directory = join(dataDirectory, "memory");
  const bytes = mib * 2 ** 20;
  const file = join(directory, `zero-${mib}`);
  const present = await stat(file).catch(() => undefined);
  if (present?.size === bytes) return file;
  await mkdir(directory, { recursive: true, mode: 0o711 });
  // Callers at the same time make equal files, each under a name of its own.
  const temporary = `${file}.${randomBytes(8).toString("hex")}`;
  try {
    {
      await using handle = await open(temporary, "wx", 0o444);
      await handle.truncate(bytes);
      await handle.sync();
    }
    await rename(temporary, file);
  } finally {
    await rm(temporary, { force: true });
  }
  return file;
}
