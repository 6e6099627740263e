import { createReadStream } from "node:fs";
import { open, readdir, readlink, stat } from "node:fs/promises";
import { join, posix, resolve } from "node:path";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { atOnce, counted, type CopyContext } from "./copied.ts";
import { forEachAtOnce } from "./for-each-at-once.ts";
import { onHost } from "./host-error.ts";

export interface CopyIn {
  /** On this host. */
  readonly from: string;
  readonly id: string;
  readonly to: string;
  /** There are other sources: the target must be a directory. */
  readonly several: boolean;
}

/**
 * Copies a file or a directory of this host into a sandbox. Permissions come along, owners and times do not; a symbolic
 * link below a directory stays one.
 */
export async function copyIn(
  { from, id, to, several }: CopyIn,
  context: CopyContext,
  signal: AbortSignal,
): Promise<void> {
  const stats = await onHost(from, () => stat(from));
  const into = several || to.endsWith("/") || (await isDirectory(context, id, to, signal));
  const target = into ? posix.join(to, lastName(from)) : to;
  if (!stats.isDirectory()) {
    if (!stats.isFile()) throw new SandboxError("invalid_argument", `${from} is neither a file nor a directory`);
    return await copyFile({ path: from, target, mode: stats.mode }, id, context, signal);
  }
  const links: Link[] = [];
  await forEachAtOnce(
    walk(from, target, context),
    atOnce,
    async (entry, signal) => {
      if (entry.kind === "file") return await copyFile(entry, id, context, signal);
      if (entry.kind === "link") return void links.push(entry);
      await context.client.files.mkdir(id, entry.target, signal);
      context.copied.directories++;
    },
    signal,
  );
  await makeLinks(links, id, context, signal);
}

interface Link {
  readonly text: string;
  readonly target: string;
}

type HostEntry =
  | { readonly kind: "file"; readonly path: string; readonly target: string; readonly mode: number }
  | { readonly kind: "directory"; readonly target: string }
  | ({ readonly kind: "link" } & Link);

/** The directory itself, then all in it. */
async function* walk(path: string, target: string, context: CopyContext): AsyncGenerator<HostEntry> {
  yield { kind: "directory", target };
  for (const entry of await onHost(path, () => readdir(path, { withFileTypes: true }))) {
    const below = join(path, entry.name);
    const place = posix.join(target, entry.name);
    if (entry.isDirectory()) yield* walk(below, place, context);
    else if (entry.isSymbolicLink())
      yield { kind: "link", text: await onHost(below, () => readlink(below)), target: place };
    else if (entry.isFile())
      yield { kind: "file", path: below, target: place, mode: (await onHost(below, () => stat(below))).mode };
    else context.note(`left out ${below}: neither a file, a directory nor a symbolic link`);
  }
}

async function copyFile(
  { path, target, mode }: { readonly path: string; readonly target: string; readonly mode: number },
  id: string,
  context: CopyContext,
  signal: AbortSignal,
): Promise<void> {
  // Opened before anything is sent, so that what cannot be read is told as what it is.
  await using file = await onHost(path, () => open(path));
  const content = createReadStream("", { fd: file.fd, autoClose: false, highWaterMark: 256 * 1024 });
  await context.client.files.write(id, target, counted(content, context), { mode: mode & 0o777 }, signal);
  context.copied.files++;
}

// Far below what one command line may hold.
const linksPerCommand = 100;

/** Links are no files that could be sent; the tools of the sandbox make them. */
async function makeLinks(
  links: readonly Link[],
  id: string,
  { client, copied }: CopyContext,
  signal: AbortSignal,
): Promise<void> {
  const script =
    'while [ $# -gt 0 ]; do ln -sfn -- "$1" "$2" && chown -h sandbox: "$2" 2>/dev/null || [ -L "$2" ] || exit 1; shift 2; done';
  for (let at = 0; at < links.length; at += linksPerCommand) {
    const batch = links.slice(at, at + linksPerCommand);
    const args = ["-c", script, "sh", ...batch.flatMap(({ text, target }) => [text, target])];
    const { exitCode, stderr } = await client.exec.run(id, { cmd: "/bin/sh", args, user: "root" }, signal);
    if (exitCode !== 0) throw new SandboxError("unavailable", `cannot make symbolic links: ${stderr.trim()}`);
    copied.links += batch.length;
  }
}

async function isDirectory({ client }: CopyContext, id: string, path: string, signal: AbortSignal): Promise<boolean> {
  try {
    const { kind } = await client.files.stat(id, path, { follow: true }, signal);
    return kind === "directory";
  } catch (error) {
    // Nothing is there, or a part of the path is not a directory.
    if (isSandboxError(error, "invalid_argument") || isNoFile(error)) return false;
    throw error;
  }
}

function isNoFile(error: unknown): boolean {
  return isSandboxError(error, "not_found") && error.details?.resource !== "sandbox";
}

/** What the copy is called; `.` for a path that ends in it, so that only what is inside is copied. */
function lastName(path: string): string {
  return /(^|\/)\.$/.test(path) ? "." : posix.basename(resolve(path));
}
