import { createReadStream } from "node:fs";
import { open, readdir, readlink, stat } from "node:fs/promises";
import { join, posix, resolve } from "node:path";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { maxTransfers, counted, type CopyContext } from "./copied.ts";
import { forEachAtOnce } from "./for-each-at-once.ts";
import { onHost } from "./host-error.ts";

export interface CopyIn {
  /** A path on this host. */
  readonly from: string;
  readonly id: string;
  readonly to: string;
  /** Whether there are further sources: then the target must be a directory. */
  readonly several: boolean;
}

/**
 * Copies a file or a directory of this host into a sandbox. Copies permissions, but neither owners nor times. A symbolic
 * link within a directory stays a link; one that the user names is followed.
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
    entriesOf(from, target, context),
    maxTransfers,
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

/** The directory itself, then its content. */
async function* entriesOf(path: string, target: string, context: CopyContext): AsyncGenerator<HostEntry> {
  yield { kind: "directory", target };
  for (const entry of await onHost(path, () => readdir(path, { withFileTypes: true }))) {
    const below = join(path, entry.name);
    const place = posix.join(target, entry.name);
    if (context.isExcluded?.(below, entry.isDirectory()) === true) continue;
    if (entry.isDirectory()) yield* entriesOf(below, place, context);
    else if (entry.isSymbolicLink())
      yield { kind: "link", text: await onHost(below, () => readlink(below)), target: place };
    else if (entry.isFile())
      yield { kind: "file", path: below, target: place, mode: (await onHost(below, () => stat(below))).mode };
    else context.note(`skipped ${below}: it is neither a file, a directory nor a symbolic link`);
  }
}

async function copyFile(
  { path, target, mode }: { readonly path: string; readonly target: string; readonly mode: number },
  id: string,
  context: CopyContext,
  signal: AbortSignal,
): Promise<void> {
  // Opened before the request, so that an unreadable file fails with its own error.
  await using file = await onHost(path, () => open(path));
  const content = createReadStream("", { fd: file.fd, autoClose: false, highWaterMark: 256 * 1024 });
  await context.client.files.write(id, target, counted(content, context), { mode: mode & 0o777 }, signal);
  context.copied.files++;
}

// Keeps the command line far below its maximum length.
const linksPerCommand = 100;

/** Creates links with the sandbox's own tools: the file API transfers only files. */
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
    if (exitCode !== 0)
      throw new SandboxError("unavailable", `cannot create symbolic links in the sandbox: ${stderr.trim()}`);
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

/** The name of the copy. `.` for a path that ends in `.`, so that only the content is copied. */
function lastName(path: string): string {
  return /(^|\/)\.$/.test(path) ? "." : posix.basename(resolve(path));
}
