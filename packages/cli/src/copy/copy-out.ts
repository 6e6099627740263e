import { randomUUID } from "node:crypto";
import { constants, type Stats } from "node:fs";
import { type FileHandle, lstat, mkdir, open, rename, stat, symlink, unlink } from "node:fs/promises";
import { dirname, join, posix } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FileEntry } from "@opensandbox/sdk";
import { maxTransfers, counted, type CopyContext } from "./copied.ts";
import { forEachAtOnce } from "./for-each-at-once.ts";
import { onHost } from "./host-error.ts";

// A sandbox is not trusted: entry names must be plain names, nothing below the target is written through a symbolic link,
// and links are created last.

export interface CopyOut {
  readonly id: string;
  readonly from: string;
  /** A path on this host. */
  readonly to: string;
  /** Whether there are further sources: then the target must be a directory. */
  readonly several: boolean;
}

/** Copies a file or a directory of a sandbox to this host. Copies permissions, but neither owners nor times. */
export async function copyOut(
  { id, from, to, several }: CopyOut,
  context: CopyContext,
  signal: AbortSignal,
): Promise<void> {
  const { files } = context.client;
  const { kind, mode } = await files.stat(id, from, { follow: true }, signal);
  const into = several || to.endsWith("/") || (await onHost(to, () => statOf(to, stat)))?.isDirectory() === true;
  if (into) await onHost(to, () => mkdir(to, { recursive: true }));
  const target = into ? join(to, posix.basename(from)) : to;
  if (kind !== "directory") return await copyFile({ path: from, target, mode, explicit: true }, id, context, signal);
  const entries = await files.list(id, from, signal);
  const links: SandboxEntry[] = [];
  await forEachAtOnce(
    entriesOf({ id, path: from, target, entries }, context, signal),
    maxTransfers,
    async (entry, signal) => {
      if (entry.kind === "symlink") links.push(entry);
      else await copyFile({ ...entry, explicit: false }, id, context, signal);
    },
    signal,
  );
  await makeLinks(links, id, context, signal);
}

interface SandboxEntry {
  readonly kind: FileEntry["kind"];
  readonly path: string;
  readonly target: string;
  readonly mode: number;
}

interface Directory {
  readonly id: string;
  readonly path: string;
  readonly target: string;
  readonly entries: readonly FileEntry[];
}

/** The content of the directory. Creates each directory before it yields its content. */
async function* entriesOf(
  { id, path, target, entries }: Directory,
  context: CopyContext,
  signal: AbortSignal,
): AsyncGenerator<SandboxEntry> {
  await makeDirectory(target);
  context.copied.directories++;
  for (const { name, kind, mode } of checked(entries, path)) {
    const below = { kind, path: posix.join(path, name), target: join(target, name), mode };
    if (kind === "directory") {
      const inside = await context.client.files.list(id, below.path, signal);
      yield* entriesOf({ id, path: below.path, target: below.target, entries: inside }, context, signal);
    } else if (kind === "other") {
      context.note(`skipped ${below.path}: it is neither a file, a directory nor a symbolic link`);
    } else {
      yield below;
    }
  }
}

/** @throws unless every name is a plain file name and occurs once */
function checked(entries: readonly FileEntry[], path: string): readonly FileEntry[] {
  const names = new Set(entries.map(({ name }) => name));
  const wrong = entries.find(({ name }) => name === "" || name === "." || name === ".." || /[/\0]/.test(name));
  if (wrong === undefined && names.size === entries.length) return entries;
  throw new SandboxError("internal", `the sandbox lists impossible file names in ${path}: the copy is aborted`);
}

/** Creates a real directory: one behind a link would not be below the target. */
async function makeDirectory(path: string): Promise<void> {
  await onHost(path, async () => {
    if ((await statOf(path, lstat)) === undefined) await mkdir(path, { recursive: true });
    if (!(await lstat(path)).isDirectory()) {
      throw new SandboxError("invalid_argument", `${path} exists on this host and is not a directory`);
    }
  });
}

interface FileCopy {
  readonly path: string;
  readonly target: string;
  readonly mode: number;
  /** The user named the target: a link is followed, and a device is written to. */
  readonly explicit: boolean;
}

async function copyFile(
  { path, target, mode, explicit }: FileCopy,
  id: string,
  context: CopyContext,
  signal: AbortSignal,
): Promise<void> {
  const { content } = await context.client.files.read(id, path, {}, signal);
  await onHost(target, async () => {
    const existing = await statOf(target, lstat);
    if (existing === undefined || existing.isFile()) await replace(target, mode, counted(content, context));
    else if (explicit) await writeInPlace(target, counted(content, context));
    else throw new SandboxError("invalid_argument", `${target} exists on this host and is not a regular file`);
  });
  context.copied.files++;
}

/** Replaces the file atomically: it has all of its new content or is unchanged. */
async function replace(target: string, mode: number, content: AsyncIterable<Uint8Array>): Promise<void> {
  const temporary = join(dirname(target), `.osb-${randomUUID()}`);
  await using undo = new AsyncDisposableStack();
  {
    await using file = await open(temporary, "wx", mode & 0o777);
    undo.defer(() => unlink(temporary));
    await writeAll(file, content);
  }
  await rename(temporary, target);
  undo.move();
}

async function writeInPlace(target: string, content: AsyncIterable<Uint8Array>): Promise<void> {
  await using file = await open(target, constants.O_WRONLY | constants.O_TRUNC);
  await writeAll(file, content);
}

async function writeAll(file: FileHandle, content: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const chunk of content) {
    for (let at = 0; at < chunk.length;) at += (await file.write(chunk, at)).bytesWritten;
  }
}

const linksPerCommand = 100;

async function makeLinks(
  links: readonly SandboxEntry[],
  id: string,
  { client, copied }: CopyContext,
  signal: AbortSignal,
): Promise<void> {
  for (let at = 0; at < links.length; at += linksPerCommand) {
    const batch = links.slice(at, at + linksPerCommand);
    const args = ["-z", "--", ...batch.map(({ path }) => path)];
    const { stdout, stderr } = await client.exec.run(id, { cmd: "readlink", args, user: "root" }, signal);
    const texts = stdout.split("\0").slice(0, -1);
    if (texts.length !== batch.length) {
      throw new SandboxError(
        "unavailable",
        `cannot read symbolic links in the sandbox: ${stderr.trim() || "they changed during the copy"}`,
      );
    }
    for (const [index, { target }] of batch.entries()) await makeLink(texts[index] ?? "", target);
    copied.links += batch.length;
  }
}

async function makeLink(text: string, target: string): Promise<void> {
  await onHost(target, async () => {
    const existing = await statOf(target, lstat);
    if (existing?.isDirectory() === true) {
      throw new SandboxError(
        "invalid_argument",
        `${target} is a directory on this host, but a symbolic link in the sandbox`,
      );
    }
    if (existing !== undefined) await unlink(target);
    await symlink(text, target);
  });
}

async function statOf(path: string, look: (path: string) => Promise<Stats>): Promise<Stats | undefined> {
  try {
    return await look(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
