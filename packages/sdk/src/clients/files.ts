import { isSandboxError } from "@opensandbox/wire/errors.ts";
import {
  type FileReply,
  listDirectory,
  makeDirectory,
  readFile,
  removeFile,
  renameFile,
  setFileAttributes,
  signDownload,
  signUpload,
  statFile,
  watchFiles,
  writeFile,
} from "@opensandbox/wire/public/guests/files.ts";
import { bytesOf } from "#transport/body.ts";
import { readEvents } from "#transport/events.ts";
import type { ServerEvent } from "#transport/events.ts";
import { errorFromReply } from "#transport/http.ts";
import type { HttpClient } from "#transport/http.ts";
import { readableOf } from "#transport/streams.ts";

export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly kind: "file" | "directory" | "symlink" | "other";
  /** Bytes. */
  readonly size: number;
  /** Permission bits. */
  readonly mode: number;
  readonly modifiedAt: string;
  readonly owner: string;
  readonly group: string;
  /** The target of a symbolic link. */
  readonly linkTarget?: string;
}

/** A change below a watched path. `lost`: changes were dropped; look at the files again. */
export interface FileChange {
  readonly kind: "created" | "changed" | "removed" | "lost";
  readonly path: string;
}

/** Attributes to change. An absent one stays. */
export interface FileAttributes {
  /** Permission bits. */
  readonly mode?: number;
  /** A name or a number. */
  readonly owner?: string;
  /** A name or a number. */
  readonly group?: string;
}

/** A URL that works without a key until it expires. */
export interface SignedUrl {
  readonly url: string;
  readonly expiresAt: string;
}

export interface ReadOptions {
  /** Offset of the first byte. Default: 0. */
  readonly start?: number;
  /** Offset of the last byte, inclusive. Default: the end of the file. */
  readonly end?: number;
}

export interface OpenFile {
  /** In bytes. Absent when the server does not know it in advance. */
  readonly size?: number;
  /** Can be read once. Leaving the iteration early ends the transfer. */
  readonly content: AsyncIterable<Uint8Array>;
}

export interface WriteOptions {
  /** Permission bits. Default: 0o644. */
  readonly mode?: number;
}

export interface StatOptions {
  /** Describe the target of a symbolic link instead of the link. Default: false. */
  readonly follow?: boolean;
}

/** Paths are the guest's. A relative path starts at the user's home. */
export interface FilesClient {
  read(id: string, path: string, options?: ReadOptions, signal?: AbortSignal): Promise<OpenFile>;
  /** Replaces a file once all of `content` has arrived. Creates missing parent directories. */
  write(
    id: string,
    path: string,
    content: ReadableStream<Uint8Array> | AsyncIterable<Uint8Array> | Uint8Array | string,
    options?: WriteOptions,
    signal?: AbortSignal,
  ): Promise<void>;
  list(id: string, path: string, signal?: AbortSignal): Promise<readonly FileEntry[]>;
  /** Creates a directory and its parents. An existing directory is not an error. */
  mkdir(id: string, path: string, signal?: AbortSignal): Promise<void>;
  /** Removes a file or a directory tree. A missing path is not an error. */
  remove(id: string, path: string, signal?: AbortSignal): Promise<void>;
  /** Whether the path is a file or a directory. */
  exists(id: string, path: string, signal?: AbortSignal): Promise<boolean>;
  /** Describes the entry at a path: a symbolic link itself, or its target if `follow` is set. */
  stat(id: string, path: string, options?: StatOptions, signal?: AbortSignal): Promise<FileEntry>;
  /** Moves a file or a directory. Creates missing parent directories of the new path. */
  rename(id: string, from: string, to: string, signal?: AbortSignal): Promise<void>;
  setAttributes(id: string, path: string, attributes: FileAttributes, signal?: AbortSignal): Promise<FileEntry>;
  /**
   * Watches a file or a directory. Changes made after the promise resolves are reported. Leaving the iteration ends the
   * watch.
   */
  watch(
    id: string,
    path: string,
    options?: { readonly recursive?: boolean },
    signal?: AbortSignal,
  ): Promise<AsyncIterable<FileChange>>;
  /** A URL that serves the file without a key. Default: for one hour, at most one day. */
  signDownload(id: string, path: string, seconds?: number, signal?: AbortSignal): Promise<SignedUrl>;
  /** A URL that accepts the file's content without a key. Default: for one hour, at most one day. */
  signUpload(id: string, path: string, seconds?: number, signal?: AbortSignal): Promise<SignedUrl>;
}

export function filesClient(http: HttpClient): FilesClient {
  const at = (id: string, path: string) => ({ parameters: { id }, query: { path } });
  return {
    async read(id, path, { start, end } = {}, signal) {
      const isPart = start !== undefined || end !== undefined;
      const headers = isPart ? { Range: `bytes=${start ?? 0}-${end ?? ""}` } : undefined;
      const response = await http.send(readFile, { ...at(id, path), ...(headers && { headers }) }, signal);
      const length = response.headers.get("content-length");
      return { ...(length === null ? {} : { size: Number(length) }), content: bytesOf(response, signal) };
    },
    async write(id, path, content, { mode } = {}, signal) {
      const query = { path, ...(mode === undefined ? {} : { mode: mode.toString(8).padStart(3, "0") }) };
      const bytes =
        typeof content === "string" || content instanceof Uint8Array || content instanceof ReadableStream
          ? content
          : readableOf(content);
      await http.call(writeFile, { parameters: { id }, query, bytes }, signal);
    },
    async list(id, path, signal) {
      return (await http.call(listDirectory, at(id, path), signal)).map(entryOf);
    },
    async mkdir(id, path, signal) {
      await http.call(makeDirectory, at(id, path), signal);
    },
    async remove(id, path, signal) {
      await http.call(removeFile, at(id, path), signal);
    },
    async exists(id, path, signal) {
      try {
        const response = await http.send(readFile, at(id, path), signal);
        await response.body?.cancel();
        return true;
      } catch (error) {
        if (isSandboxError(error, "not_found")) return false;
        // A path that is refused as a directory exists.
        if (isSandboxError(error, "invalid_argument") || isSandboxError(error, "wrong_state")) return true;
        throw error;
      }
    },
    async stat(id, path, { follow = false } = {}, signal) {
      const query = { path, ...(follow ? { follow: "true" as const } : {}) };
      return entryOf(await http.call(statFile, { parameters: { id }, query }, signal));
    },
    async rename(id, from, to, signal) {
      await http.call(renameFile, { parameters: { id }, body: { from, to } }, signal);
    },
    async setAttributes(id, path, { mode, owner, group }, signal) {
      const body = {
        ...(mode === undefined ? {} : { mode: mode.toString(8) }),
        ...(owner === undefined ? {} : { owner }),
        ...(group === undefined ? {} : { group }),
      };
      return entryOf(await http.call(setFileAttributes, { ...at(id, path), body }, signal));
    },
    async watch(id, path, { recursive = false } = {}, signal) {
      const query = { path, ...(recursive ? { recursive: "true" as const } : {}) };
      const events = readEvents(await http.send(watchFiles, { parameters: { id }, query }, signal), signal);
      const first = await events.next();
      if (first.done !== true && first.value.event === "error") throw errorFromReply(500, first.value.data);
      return changesOf(events);
    },
    async signDownload(id, path, expiresIn, signal) {
      return await http.call(signDownload, { parameters: { id }, body: signBody(path, expiresIn) }, signal);
    },
    async signUpload(id, path, expiresIn, signal) {
      return await http.call(signUpload, { parameters: { id }, body: signBody(path, expiresIn) }, signal);
    },
  };
}

function signBody(path: string, expiresIn: number | undefined): { path: string; expiresIn?: number } {
  return { path, ...(expiresIn === undefined ? {} : { expiresIn }) };
}

async function* changesOf(events: AsyncIterable<ServerEvent>): AsyncGenerator<FileChange, void> {
  for await (const { event, data } of events) {
    if (event === "error") throw errorFromReply(500, data);
    if (event === "change") yield JSON.parse(data) as FileChange;
  }
}

function entryOf({ name, path, kind, size, mode, modifiedAt, owner, group, linkTarget }: FileReply): FileEntry {
  const known = { name, path, kind, size, mode, modifiedAt, owner, group };
  return linkTarget === undefined ? known : { ...known, linkTarget };
}
