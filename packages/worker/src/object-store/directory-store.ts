import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { hostFiles, makeDurableDirectory } from "#host/storage/durable-files.ts";
import { type GetOptions, type ListedObject, type ObjectInfo, type ObjectStore, requireKey } from "./object-store.ts";

/** Objects that are being written have names that no key has. */
const unfinishedPrefix = ".unfinished-";

/** Objects as files of a directory, which all workers mount: a network file system, or one host's own disk. */
export class DirectoryStore implements ObjectStore {
  readonly location: string;
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
    this.location = `file://${directory}`;
  }

  /** @throws `permission_denied` when the directory cannot be made */
  static async open(directory: string): Promise<DirectoryStore> {
    try {
      await mkdir(directory, { recursive: true, mode: 0o700 });
    } catch (cause) {
      const message = `cannot make the directory ${directory} of the object store: ${(cause as Error).message}`;
      throw new SandboxError("permission_denied", message, { cause });
    }
    return new DirectoryStore(directory);
  }

  async put(key: string, content: Uint8Array, signal: AbortSignal): Promise<void> {
    const path = this.#pathOf(key);
    signal.throwIfAborted();
    await doing(
      "write",
      key,
      async () => {
        const parent = dirname(path);
        await makeDurableDirectory(parent, 0o700, hostFiles);
        const unfinished = join(parent, `${unfinishedPrefix}${randomBytes(8).toString("hex")}`);
        try {
          {
            await using file = await open(unfinished, "wx", 0o600);
            await file.writeFile(content, { signal });
            await file.sync();
          }
          await rename(unfinished, path);
        } finally {
          await rm(unfinished, { force: true });
        }
        await hostFiles.flush(parent);
      },
      signal,
    );
  }

  async get(key: string, { range, signal }: GetOptions): Promise<Buffer | undefined> {
    const path = this.#pathOf(key);
    signal.throwIfAborted();
    return await doing("read", key, () => unlessMissing(readRange(path, range)), signal);
  }

  async head(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    const path = this.#pathOf(key);
    signal.throwIfAborted();
    return await doing("look up", key, () => unlessMissing(infoOf(path)), signal);
  }

  async delete(key: string, signal: AbortSignal): Promise<void> {
    const path = this.#pathOf(key);
    signal.throwIfAborted();
    await doing("delete", key, () => rm(path, { force: true }), signal);
  }

  async *list(prefix: string, signal: AbortSignal): AsyncGenerator<ListedObject> {
    // Only directories that can hold a match are read.
    const parent = prefix.slice(0, prefix.lastIndexOf("/") + 1);
    yield* this.#listIn(join(this.#directory, parent), prefix, signal);
  }

  [Symbol.dispose](): void {
    // There is no connection.
  }

  async *#listIn(directory: string, prefix: string, signal: AbortSignal): AsyncGenerator<ListedObject> {
    const entries = (await unlessMissing(readdir(directory, { withFileTypes: true }))) ?? [];
    for (const entry of entries) {
      signal.throwIfAborted();
      const path = join(directory, entry.name);
      const key = relative(this.#directory, path);
      if (entry.isDirectory()) {
        if (`${key}/`.startsWith(prefix) || prefix.startsWith(`${key}/`)) yield* this.#listIn(path, prefix, signal);
      } else if (key.startsWith(prefix) && !entry.name.startsWith(unfinishedPrefix)) {
        const info = await unlessMissing(infoOf(path));
        if (info !== undefined) yield { key, ...info };
      }
    }
  }

  #pathOf(key: string): string {
    requireKey(key);
    return join(this.#directory, key);
  }
}

async function readRange(path: string, range: GetOptions["range"]): Promise<Buffer> {
  await using file = await open(path);
  if (range === undefined) return await file.readFile();
  const content = Buffer.alloc(range.length);
  const { bytesRead } = await file.read(content, 0, range.length, range.offset);
  return content.subarray(0, bytesRead);
}

async function infoOf(path: string): Promise<ObjectInfo> {
  const { size, mtime } = await stat(path);
  return { bytes: size, modifiedAt: mtime };
}

async function unlessMissing<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

async function doing<T>(what: string, key: string, run: () => Promise<T>, signal: AbortSignal): Promise<T> {
  try {
    return await run();
  } catch (cause) {
    signal.throwIfAborted();
    const { code, message } = cause as NodeJS.ErrnoException;
    const kind = code === "EACCES" || code === "EPERM" ? "permission_denied" : "unavailable";
    throw new SandboxError(kind, `the object store could not ${what} ${key}: ${message}`, { cause });
  }
}
