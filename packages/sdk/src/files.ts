import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { listDirectory, makeDirectory, readFile, removeFile, writeFile } from "@opensandbox/wire/public/files.ts";
import { bytesOf } from "./body.ts";
import type { HttpClient } from "./http.ts";

export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly kind: "file" | "directory" | "symlink" | "other";
  /** Bytes. */
  readonly size: number;
  /** Permission bits. */
  readonly mode: number;
  readonly modifiedAt: string;
}

export interface OpenFile {
  /** Bytes, when the server knows them beforehand. */
  readonly size?: number;
  /** Taken once; leaving it early ends the transfer. */
  readonly content: AsyncIterable<Uint8Array>;
}

export interface WriteOptions {
  /** Permission bits. Default: 0o644. */
  readonly mode?: number;
}

/** Paths are the guest's; a relative one begins at the user's home. */
export interface FilesClient {
  read(id: string, path: string, signal?: AbortSignal): Promise<OpenFile>;
  /** Replaces the file when all of `content` has arrived; directories above it are made. */
  write(
    id: string,
    path: string,
    content: AsyncIterable<Uint8Array> | Uint8Array | string,
    options?: WriteOptions,
    signal?: AbortSignal,
  ): Promise<void>;
  list(id: string, path: string, signal?: AbortSignal): Promise<readonly FileEntry[]>;
  /** With those above it; a directory that exists already is no error. */
  mkdir(id: string, path: string, signal?: AbortSignal): Promise<void>;
  /** Recursive; a path that does not exist is removed already. */
  remove(id: string, path: string, signal?: AbortSignal): Promise<void>;
  /** Whether a file or a directory is there. */
  exists(id: string, path: string, signal?: AbortSignal): Promise<boolean>;
}

export function filesClient(http: HttpClient): FilesClient {
  const at = (id: string, path: string) => ({ parameters: { id }, query: { path } });
  return {
    async read(id, path, signal) {
      const response = await http.send(readFile, at(id, path), signal);
      const length = response.headers.get("content-length");
      return { ...(length === null ? {} : { size: Number(length) }), content: bytesOf(response, signal) };
    },
    async write(id, path, content, { mode } = {}, signal) {
      const query = { path, ...(mode === undefined ? {} : { mode: mode.toString(8).padStart(3, "0") }) };
      const bytes =
        typeof content === "string" || content instanceof Uint8Array ? content : ReadableStream.from(content);
      await http.call(writeFile, { parameters: { id }, query, bytes }, signal);
    },
    async list(id, path, signal) {
      const entries = await http.call(listDirectory, at(id, path), signal);
      return entries.map(({ name, path, kind, size, mode, modifiedAt }) => ({
        name,
        path,
        kind,
        size,
        mode,
        modifiedAt,
      }));
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
        // Reading a directory is refused, which says that it is there.
        if (isSandboxError(error, "invalid_argument") || isSandboxError(error, "wrong_state")) return true;
        throw error;
      }
    },
  };
}
