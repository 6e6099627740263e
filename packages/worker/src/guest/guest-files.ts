import { SandboxError } from "@opensandbox/wire/errors.ts";
import { fileCredit, parse, type Stream } from "@opensandbox/wire/guest/channel.ts";
import {
  type FileStat,
  FileStatSchema,
  FileStatsSchema,
  WatchEventsSchema,
} from "@opensandbox/wire/guest/messages_pb.js";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import type { FileChange, FileEntry, GuestFiles } from "@opensandbox/wire/worker/files.ts";
import { collect } from "./collect.ts";
import { type GuestClient, invalidAnswer, replyOf } from "./guest-client.ts";
import { timeFrom } from "./guest-time.ts";

/** A directory of a hundred thousand entries takes about 12 MB on the line and 60 MB of memory here. */
const listingLimits = { entries: 200_000, bytes: 32 * 2 ** 20 };

/** The files of the guest that `connected` returns; without a guest `connected` throws. */
export function guestFiles(connected: () => GuestClient): GuestFiles {
  return {
    async read(path, { offset = 0, length = 0 }, signal) {
      const request = { path, offset: BigInt(offset), length: BigInt(length) };
      const stream = await connected().open(methods.readFile, request, signal);
      stream.raiseCredit(fileCredit);
      const first = await stream.next();
      const stat = first.kind === "message" ? parse(FileStatSchema, first.payload) : undefined;
      if (stat === undefined) throw invalidAnswer(stream);
      return { entry: entryOf(stat), content: content(stream) };
    },
    async write(path, pieces, { mode = 0 }, signal) {
      const stream = await connected().open(methods.writeFile, { path, mode }, signal);
      return await upload(stream, pieces);
    },
    async stat(path, { noFollow = false }, signal) {
      return entryOf(await connected().call(methods.stat, { path, noFollow }, signal));
    },
    async list(path, signal) {
      const stream = await connected().open(methods.list, { path }, signal);
      const stats = await collect(stream, FileStatsSchema, ({ entries }) => entries, {
        ...listingLimits,
        excess: (limit) =>
          new SandboxError("not_supported", `cannot list ${path}, which has ${limit}: list it with a command`),
      });
      return stats.map(entryOf);
    },
    async makeDirectory(path, signal) {
      await connected().call(methods.makeDirectory, { path }, signal);
    },
    async remove(path, signal) {
      await connected().call(methods.remove, { path }, signal);
    },
    async rename(from, to, signal) {
      await connected().call(methods.rename, { from, to }, signal);
    },
    async setAttributes(path, { mode, owner = "", group = "" }, signal) {
      const request = { path, owner, group, ...(mode === undefined ? {} : { mode }) };
      return entryOf(await connected().call(methods.setAttributes, request, signal));
    },
    async watch(path, { recursive }, signal) {
      const stream = await connected().open(methods.watch, { path, recursive }, signal);
      const first = await stream.next();
      if (first.kind !== "message" || parse(WatchEventsSchema, first.payload) === undefined) {
        throw invalidAnswer(stream);
      }
      return changes(stream);
    },
    async sync(signal) {
      await connected().call(methods.sync, {}, signal);
    },
  };
}

async function upload(stream: Stream, pieces: AsyncIterable<Uint8Array>): Promise<number> {
  // The agent may refuse at any moment: a full disk must end the upload, not wait for its last byte.
  const answer = stream.next();
  answer.catch(() => undefined);
  try {
    for await (const piece of pieces) await stream.sendData(0, piece);
    await stream.end();
  } catch (error) {
    stream.reset(new SandboxError("canceled", "the upload was not finished", { cause: error }));
    throw error;
  }
  const incoming = await answer;
  const { bytes } = replyOf(methods.writeFile, incoming.kind === "end" ? incoming.payload : undefined);
  return Number(bytes);
}

async function* content(stream: Stream): AsyncGenerator<Uint8Array> {
  try {
    for (;;) {
      const incoming = await stream.next();
      if (incoming.kind === "end") return;
      if (incoming.kind !== "data") throw invalidAnswer(stream);
      yield incoming.payload;
    }
  } finally {
    stream.reset(new SandboxError("canceled", "the reader has left the file"));
  }
}

async function* changes(stream: Stream): AsyncGenerator<readonly FileChange[]> {
  try {
    for (;;) {
      const incoming = await stream.next();
      if (incoming.kind === "end") return;
      const events = incoming.kind === "message" ? parse(WatchEventsSchema, incoming.payload)?.events : undefined;
      if (events === undefined) throw invalidAnswer(stream);
      yield events.map(({ kind, path }) => ({ kind: kinds.find((known) => known === kind) ?? "changed", path }));
    }
  } finally {
    stream.reset(new SandboxError("canceled", "the reader has left the changes"));
  }
}

const kinds: readonly FileChange["kind"][] = ["created", "changed", "removed", "lost"];

function entryOf(stat: FileStat): FileEntry {
  const { name, path, kind, size, mode, modifiedMs, owner, group, uid, gid, linkTarget } = stat;
  const known = kind === "file" || kind === "directory" || kind === "symlink" ? kind : "other";
  return {
    name,
    path,
    kind: known,
    size: Number(size),
    mode,
    modifiedMs: timeFrom(modifiedMs),
    owner: owner || `${uid}`,
    group: group || `${gid}`,
    ...(linkTarget === "" ? {} : { linkTarget }),
  };
}
