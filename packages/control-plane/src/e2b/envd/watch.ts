import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { FilesystemEvent, WatchRequest } from "@opensandbox/wire/e2b/envd.ts";
import type { FileChange, FileEntry, GuestFiles } from "@opensandbox/wire/worker/files.ts";
import { orMissing } from "../e2b-context.ts";
import type { ConnectStream } from "./connect-stream.ts";
import { describeEntry } from "./entries.ts";
import type { EnvdCall } from "./envd-call.ts";
import { below } from "./filesystem.ts";
import { pathFrom } from "./paths.ts";

/** Names of the files that the guest agent writes before it renames them into place. */
const ownFile = /(?:^|\/)\.opensandbox-[0-9a-f]{16}$/;

/** Paths remembered to tell a replacement from a creation. Beyond them, a replacement is reported as a creation. */
const maxKnown = 50_000;

/** Streams the changes in a directory until the client leaves. */
export async function watchDirectory(call: EnvdCall, body: WatchRequest, stream: ConnectStream): Promise<void> {
  const { signal, use } = call;
  const changes = await changesIn(call, body);
  // A watch keeps no sandbox awake.
  use[Symbol.dispose]();
  await stream.send({ start: {} }, signal);
  for await (const event of changes) await stream.send({ filesystem: event }, signal);
  stream.end();
}

/** Begins a watch whose events the client polls for. */
export async function createWatcher(call: EnvdCall, body: WatchRequest): Promise<object> {
  const { context, id } = call;
  const end = new AbortController();
  const signal = AbortSignal.any([end.signal, context.sandboxes.shutdown.ending]);
  const changes = await changesIn({ ...call, signal }, body);
  return { watcherId: context.watchers.add(id, changes, end) };
}

export async function takeEvents(
  { context, id }: EnvdCall,
  { watcherId }: { readonly watcherId: string },
): Promise<object> {
  await Promise.resolve();
  return { events: context.watchers.take(id, watcherId) };
}

export async function removeWatcher(
  { context, id }: EnvdCall,
  { watcherId }: { readonly watcherId: string },
): Promise<object> {
  await Promise.resolve();
  context.watchers.remove(id, watcherId);
  return {};
}

/**
 * Begins to watch a directory. Resolves when every change from then on will be reported. @throws `invalid_argument` for
 * a file
 */
async function changesIn(
  { guest: { files }, account, signal }: Pick<EnvdCall, "guest" | "account" | "signal">,
  { path, recursive = false, includeEntry = false }: WatchRequest,
): Promise<AsyncIterable<FilesystemEvent>> {
  const root = pathFrom(account, path);
  const { kind } = await files.stat(root, {}, signal);
  if (kind !== "directory") throw new SandboxError("invalid_argument", `path is not a directory: ${root}`);
  const changes = await files.watch(root, { recursive }, signal);
  const known = new Set<string>();
  await remember(files, { directory: root, recursive, known }, signal);
  return eventsOf(files, { root, changes, known, includeEntry }, signal);
}

interface Watched {
  readonly root: string;
  readonly changes: AsyncIterable<readonly FileChange[]>;
  /** Paths known to exist. */
  readonly known: Set<string>;
  readonly includeEntry: boolean;
}

async function* eventsOf(
  files: GuestFiles,
  { root, changes, known, includeEntry }: Watched,
  signal: AbortSignal,
): AsyncGenerator<FilesystemEvent> {
  for await (const batch of changes) {
    for (const { kind, path } of batch) {
      if (kind === "lost") {
        throw new SandboxError("unavailable", `changes in ${root} came faster than they were read: watch it again`);
      }
      if (ownFile.test(path) || path === root) continue;
      const name = below(root, path);
      if (kind === "removed") {
        known.delete(path);
        yield { name, type: "EVENT_TYPE_REMOVE" };
        continue;
      }
      const entry = await orMissing(files.stat(path, { noFollow: true }, signal));
      // A change in a directory is reported under the name of the changed entry.
      if (kind === "changed" && entry?.kind === "directory") continue;
      const shown = entry !== undefined && includeEntry ? { entry: await describeEntry(files, entry, signal) } : {};
      const isNew = kind === "created" && !known.has(path);
      if (known.size < maxKnown) known.add(path);
      if (isNew) yield { name, type: "EVENT_TYPE_CREATE", ...shown };
      // A file appears with its content. E2B's servers report a creation and then a write, so a write is added here.
      if (!isNew || isFilled(entry)) yield { name, type: "EVENT_TYPE_WRITE", ...shown };
    }
  }
}

function isFilled(entry: FileEntry | undefined): boolean {
  return entry?.kind === "file" && entry.size > 0;
}

async function remember(
  files: GuestFiles,
  {
    directory,
    recursive,
    known,
  }: { readonly directory: string; readonly recursive: boolean; readonly known: Set<string> },
  signal: AbortSignal,
): Promise<void> {
  for (const entry of (await orMissing(files.list(directory, signal))) ?? []) {
    if (known.size >= maxKnown) return;
    known.add(entry.path);
    if (recursive && entry.kind === "directory")
      await remember(files, { directory: entry.path, recursive, known }, signal);
  }
}
