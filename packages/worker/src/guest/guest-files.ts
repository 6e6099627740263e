import { SandboxError } from "@opensandbox/wire/errors.ts";
import { parse, type Stream } from "@opensandbox/wire/guest/channel.ts";
import {
  type FileStat,
  FileStatSchema,
  FileStatsSchema,
  WatchEventsSchema,
} from "@opensandbox/wire/guest/messages_pb.js";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { ByteRange, FileChange, FileEntry, OpenFile } from "@opensandbox/wire/worker/worker.ts";
import { type GuestClient, replyOf } from "./guest-client.ts";

export async function readFile(
  guest: GuestClient,
  path: string,
  { offset = 0, length = 0 }: ByteRange,
  signal: AbortSignal,
): Promise<OpenFile> {
  const request = { path, offset: BigInt(offset), length: BigInt(length) };
  const stream = await guest.open(methods.readFile, request, signal);
  const first = await stream.next();
  const stat = first.kind === "message" ? parse(FileStatSchema, first.payload) : undefined;
  if (stat === undefined) throw giveUp(stream);
  return { entry: entryOf(stat), content: content(stream) };
}

export async function writeFile(
  guest: GuestClient,
  path: string,
  content: AsyncIterable<Uint8Array>,
  options: { readonly mode?: number },
  signal: AbortSignal,
): Promise<number> {
  const stream = await guest.open(methods.writeFile, { path, mode: options.mode ?? 0 }, signal);
  // The agent may refuse at any moment: a full disk must end the upload, not wait for its last byte.
  const answer = stream.next();
  answer.catch(() => undefined);
  try {
    for await (const chunk of content) await stream.sendData(0, chunk);
    await stream.end();
  } catch (error) {
    stream.reset(new SandboxError("canceled", "the upload was not finished", { cause: error }));
    throw error;
  }
  const incoming = await answer;
  const { bytes } = replyOf(methods.writeFile, incoming.kind === "end" ? incoming.payload : undefined);
  return Number(bytes);
}

export async function statFile(
  guest: GuestClient,
  path: string,
  { noFollow = false }: { readonly noFollow?: boolean },
  signal: AbortSignal,
): Promise<FileEntry> {
  return entryOf(await guest.call(methods.stat, { path, noFollow }, signal));
}

export async function setFileAttributes(
  guest: GuestClient,
  path: string,
  { mode, owner = "", group = "" }: { readonly mode?: number; readonly owner?: string; readonly group?: string },
  signal: AbortSignal,
): Promise<FileEntry> {
  const request = { path, owner, group, ...(mode === undefined ? {} : { mode }) };
  return entryOf(await guest.call(methods.setAttributes, request, signal));
}

export async function watchFiles(
  guest: GuestClient,
  path: string,
  { recursive }: { readonly recursive: boolean },
  signal: AbortSignal,
): Promise<AsyncIterable<readonly FileChange[]>> {
  const stream = await guest.open(methods.watch, { path, recursive }, signal);
  const first = await stream.next();
  if (first.kind !== "message" || parse(WatchEventsSchema, first.payload) === undefined) throw giveUp(stream);
  return changes(stream);
}

export async function listDirectory(guest: GuestClient, path: string, signal: AbortSignal): Promise<FileEntry[]> {
  const stream = await guest.open(methods.list, { path }, signal);
  const entries: FileEntry[] = [];
  for (;;) {
    const incoming = await stream.next();
    if (incoming.kind === "end") return entries;
    const stats = incoming.kind === "message" ? parse(FileStatsSchema, incoming.payload) : undefined;
    if (stats === undefined) throw giveUp(stream);
    entries.push(...stats.entries.map(entryOf));
  }
}

async function* content(stream: Stream): AsyncGenerator<Uint8Array> {
  try {
    for (;;) {
      const incoming = await stream.next();
      if (incoming.kind === "end") return;
      if (incoming.kind === "data") yield incoming.payload;
    }
  } finally {
    stream.reset(new SandboxError("canceled", "the file is not read any more"));
  }
}

async function* changes(stream: Stream): AsyncGenerator<readonly FileChange[]> {
  try {
    for (;;) {
      const incoming = await stream.next();
      if (incoming.kind === "end") return;
      const events = incoming.kind === "message" ? parse(WatchEventsSchema, incoming.payload)?.events : undefined;
      if (events === undefined) throw giveUp(stream);
      yield events.map(({ kind, path }) => ({ kind: kinds.find((known) => known === kind) ?? "changed", path }));
    }
  } finally {
    stream.reset(new SandboxError("canceled", "the changes are not taken any more"));
  }
}

const kinds: readonly FileChange["kind"][] = ["created", "changed", "removed", "lost"];

function giveUp(stream: Stream): SandboxError {
  const error = new SandboxError("unavailable", "the guest agent gave no valid answer");
  stream.reset(error);
  return error;
}

function entryOf(stat: FileStat): FileEntry {
  const { name, path, kind, size, mode, modifiedMs, owner, group, uid, gid, linkTarget } = stat;
  const known = kind === "file" || kind === "directory" || kind === "symlink" ? kind : "other";
  return {
    name,
    path,
    kind: known,
    size: Number(size),
    mode,
    modifiedMs: Number(modifiedMs),
    owner: owner || `${uid}`,
    group: group || `${gid}`,
    ...(linkTarget === "" ? {} : { linkTarget }),
  };
}
