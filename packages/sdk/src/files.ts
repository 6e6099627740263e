import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { translate } from "./http.ts";
import type { HttpClient } from "./http.ts";

export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly isDirectory: boolean;
  /** Bytes. */
  readonly size: number;
  /** Permission bits, where the server says them. */
  readonly mode?: number;
}

export interface OpenFile {
  /** Bytes, when the server knows them beforehand. */
  readonly size?: number;
  /** Taken once; leaving it early ends the transfer. */
  readonly content: AsyncIterable<Uint8Array>;
}

/** Paths are the guest's; a relative one starts at the user's home. */
export interface FilesClient {
  read(id: string, path: string, signal?: AbortSignal): Promise<OpenFile>;
  /** Replaces the file when all of `content` has arrived; parent directories are made. */
  write(
    id: string,
    path: string,
    content: AsyncIterable<Uint8Array> | Uint8Array | string,
    options?: { readonly mode?: number },
    signal?: AbortSignal,
  ): Promise<void>;
  list(id: string, path: string, signal?: AbortSignal): Promise<readonly FileEntry[]>;
  /** With its parents; a directory that exists already is no error. */
  mkdir(id: string, path: string, signal?: AbortSignal): Promise<void>;
  /** Recursive; a path that does not exist is removed already. */
  remove(id: string, path: string, signal?: AbortSignal): Promise<void>;
  exists(id: string, path: string, signal?: AbortSignal): Promise<boolean>;
}

export function filesClient(http: HttpClient): FilesClient {
  const base = (id: string): string => `/sandboxes/${encodeURIComponent(id)}/files`;

  async function list(id: string, path: string, signal?: AbortSignal): Promise<readonly FileEntry[]> {
    const request = { method: "GET", path: `${base(id)}/list`, query: { path } } as const;
    return ((await http.json<EntryOnWire[] | null>(request, signal)) ?? []).map(entryFromWire);
  }

  return {
    list,
    async read(id, path, signal) {
      const response = await http.send({ method: "GET", path: base(id), query: { path } }, signal);
      const length = response.headers.get("content-length");
      return {
        ...(length === null ? {} : { size: Number(length) }),
        content: contentOf(response, path, signal),
      };
    },
    async write(id, path, content, options = {}, signal) {
      const mode = options.mode?.toString(8);
      const body =
        typeof content === "string" || content instanceof Uint8Array ? content : ReadableStream.from(content);
      await http.done({ method: "PUT", path: base(id), query: { path, mode }, content: body }, signal);
    },
    async mkdir(id, path, signal) {
      await http.done({ method: "POST", path: `${base(id)}/mkdir`, query: { path } }, signal);
    },
    async remove(id, path, signal) {
      await http.done({ method: "DELETE", path: base(id), query: { path } }, signal);
    },
    async exists(id, path, signal) {
      try {
        await list(id, path, signal);
        return true;
      } catch (error) {
        if (isSandboxError(error, "not_found")) return false;
        // Listing a file is refused, which says that it is there.
        if (isSandboxError(error, "invalid_argument")) return true;
        throw error;
      }
    },
  };
}

interface EntryOnWire {
  readonly name: string;
  readonly isDir: boolean;
  readonly size: number;
  readonly path: string;
  readonly mode?: number;
}

function entryFromWire({ name, isDir, size, path, mode }: EntryOnWire): FileEntry {
  return { name, path, isDirectory: isDir, size, ...(mode === undefined ? {} : { mode }) };
}

async function* contentOf(response: Response, path: string, signal?: AbortSignal): AsyncGenerator<Uint8Array, void> {
  if (response.body === null) return;
  const reader = response.body.getReader();
  try {
    while (true) {
      const { done, value } = await translate(`the server for all of ${path}`, signal, async () => await reader.read());
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
