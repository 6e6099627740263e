import { randomBytes } from "node:crypto";
import { constants, existsSync } from "node:fs";
import { chmod, chown, copyFile, link, mkdir, open, rm, stat, symlink } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { createOverlay } from "#disks/qcow2.ts";
import { together } from "#host/together.ts";
import { contentRecordOf } from "#images/artifact.ts";
import type { MachineFiles } from "#snapshots/manifest.ts";
import type { BootFiles } from "./host.ts";

/** Whom files belong to so that a machine's process can use them. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** The names that the files of an image have in a machine's directory. */
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

/** Puts the files of an image into a machine's directory. Returns them with the records of their contents. */
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

/** Who is to read files that are another machine's too. */
export interface Reader {
  readonly user: Owner | undefined;
  /** What is private of another tenant is copied. */
  readonly fromPublic?: boolean;
}

/**
 * Puts files that are in one directory into another as well; for a `reader`, so that it can read them.
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
    throw new SandboxError("permission_denied", "the snapshot is another organization's");
  }
}

/** Whether a file is private of another tenant than the user's. */
async function isForeign(file: string, user: Owner | undefined): Promise<boolean> {
  if (user === undefined) return false;
  const { mode, gid } = await stat(file);
  return (mode & 0o004) === 0 && gid !== user.gid;
}

/** What is private stays with its tenant: another one gets the content in files of its own. */
async function copy(file: string, at: string, tenant: Owner | undefined): Promise<void> {
  await copyFile(file, at, constants.COPYFILE_FICLONE);
  await seal(at, tenant);
}

/** The same machine, with memory that begins as zeros. */
export async function withZeroMemory(
  files: MachineFiles,
  zeroMemory: string,
  directory: string,
): Promise<MachineFiles> {
  const memoryBase = "memory.zero";
  // It may be there from an earlier boot.
  await rm(join(directory, memoryBase), { force: true });
  await share(zeroMemory, join(directory, memoryBase));
  return { ...files, memoryBase };
}

/** A hard link, so that the content lives as long as anybody has it; where that cannot be, a symbolic one. */
async function share(file: string, at: string): Promise<void> {
  try {
    await link(file, at);
  } catch (error) {
    // Images may be cached on another file system, or be somebody else's (protected_hardlinks in proc_sys_fs(5)), and
    // stay where they are.
    if (!["EXDEV", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    await symlink(file, at);
  }
}

/** The name of a disk's overlay number `index`, which is never used twice in a directory. */
export function layerName(disk: string, index: number): string {
  return `${disk}-${index}.qcow2`;
}

/** The number in the name of an overlay. */
export function layerNumber(file: string): number {
  return Number(/-(\d+)\.qcow2$/.exec(file)?.[1]);
}

/** An empty overlay for a machine's process to write to. */
export async function makeLayer(file: string, bytes: number, owner: Owner | undefined): Promise<void> {
  await createOverlay(file, bytes);
  if (owner !== undefined) await chown(file, owner.uid, owner.gid);
}

/**
 * A file that will never change: root's, and readable for the machines of one tenant or, without one, for all. Where
 * this process is not root everything is its own.
 */
export async function seal(file: string, tenant: Owner | undefined): Promise<void> {
  if (process.getuid?.() === 0) await chown(file, 0, tenant?.gid ?? 0);
  await chmod(file, tenant === undefined ? 0o444 : 0o440);
}

/** A file of `memoryMib` MiB of zeros, which takes no room: what the memory of a machine that boots begins as. */
export async function provideZeroMemory(dataDirectory: string, memoryMib: number): Promise<string> {
  const directory = join(dataDirectory, "memory");
  await mkdir(directory, { recursive: true, mode: 0o711 });
  const file = join(directory, `zero-${memoryMib}`);
  if (existsSync(file)) return file;
  // Of its own: two that come at once make the same file, and must not take each other's away.
  const temporary = `${file}.${randomBytes(8).toString("hex")}`;
  try {
    await using handle = await open(temporary, "wx", 0o444);
    await handle.truncate(memoryMib * 2 ** 20);
    await link(temporary, file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    await rm(temporary, { force: true });
  }
  return file;
}
