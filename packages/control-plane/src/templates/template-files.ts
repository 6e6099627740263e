import { createReadStream, createWriteStream } from "node:fs";
import { mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";

/** The archives of one organization together, in bytes. */
const maxOrganizationBytes = 4 * 2 ** 30;

/** An archive that no build has used for this long is removed: its client uploads it again. */
const keptMs = 7 * 86_400_000;

export interface TemplateFile {
  readonly organizationId: string;
  readonly templateId: string;
  /** The client's hash of the files, 1 to 128 letters and digits. */
  readonly hash: string;
}

/** Archives that clients upload for the COPY steps of their builds, in a directory of this host. */
export class TemplateFiles {
  readonly #directory: string;
  readonly #maxBytes: number;

  constructor(directory: string, { maxBytes = maxOrganizationBytes }: { readonly maxBytes?: number } = {}) {
    this.#directory = directory;
    this.#maxBytes = maxBytes;
  }

  async has(file: TemplateFile): Promise<boolean> {
    return (await sizeOf(this.#path(file))) !== undefined;
  }

  /** Stores an archive; a failure leaves nothing. @throws `quota_exceeded` when the organization has too much */
  async write(file: TemplateFile, content: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<void> {
    const path = this.#path(file);
    const partial = `${path}.${randomHex(8)}.partial`;
    let left = this.#maxBytes - (await bytesIn(join(this.#directory, file.organizationId)));
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    try {
      await pipeline(
        content,
        async function* (chunks: AsyncIterable<Uint8Array>) {
          for await (const chunk of chunks) {
            left -= chunk.length;
            if (left < 0) throw tooMuch();
            yield chunk;
          }
        },
        createWriteStream(partial, { mode: 0o600 }),
        { signal },
      );
      await rename(partial, path);
    } finally {
      await rm(partial, { force: true });
    }
  }

  /** @throws `not_found` when it was never uploaded, or removed since */
  async read(file: TemplateFile): Promise<AsyncIterable<Uint8Array>> {
    const path = this.#path(file);
    if ((await sizeOf(path)) === undefined) {
      const message = "the files of a COPY step were not uploaded: build again";
      throw new SandboxError("not_found", message, { resource: "file", id: file.hash });
    }
    return Readable.from(createReadStream(path)) as AsyncIterable<Uint8Array>;
  }

  /** Removes what was uploaded for a template. */
  async removeTemplate({ organizationId, templateId }: Omit<TemplateFile, "hash">): Promise<void> {
    await rm(join(this.#directory, organizationId, templateId), { recursive: true, force: true });
  }

  /** Removes archives that were uploaded long ago. */
  async removeOld(nowMs: number): Promise<void> {
    for (const path of await filesIn(this.#directory)) {
      const modified = await stat(path).catch(() => undefined);
      if (modified !== undefined && modified.mtimeMs < nowMs - keptMs) await rm(path, { force: true });
    }
  }

  #path({ organizationId, templateId, hash }: TemplateFile): string {
    if (!/^[0-9a-zA-Z]{1,128}$/.test(hash)) {
      throw new SandboxError("invalid_argument", "the hash of uploaded files must be 1 to 128 letters and digits");
    }
    return join(this.#directory, organizationId, templateId, hash);
  }
}

function tooMuch(): SandboxError<"quota_exceeded"> {
  return new SandboxError(
    "quota_exceeded",
    "the files uploaded for templates exceed the organization's limit: delete templates, or copy fewer files",
  );
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

async function filesIn(directory: string): Promise<string[]> {
  try {
    const entries = await readdir(directory, { recursive: true, withFileTypes: true });
    return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

async function bytesIn(directory: string): Promise<number> {
  const sizes = await Promise.all((await filesIn(directory)).map(sizeOf));
  return sizes.reduce<number>((sum, size) => sum + (size ?? 0), 0);
}
