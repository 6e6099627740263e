import { createHash } from "node:crypto";
import { BlobServiceClient, type ContainerClient, type StoragePipelineOptions } from "@azure/storage-blob";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { type GetOptions, type ListedObject, type ObjectInfo, type ObjectStore, requireKey } from "./object-store.ts";
import { isTransient, type StoreFailure, type StoreTuning, withRetries } from "./retry.ts";

export interface AzurePlace {
  readonly container: string;
  /** Ends with a slash, or is empty. */
  readonly prefix: string;
  readonly access: AzureAccess;
}

/** A connection string, with the account and its key or a shared access signature, or the host's managed identity. */
export type AzureAccess =
  | { readonly connectionString: string }
  | { readonly account: string; readonly credential: Credential };

/** Gives tokens for Azure Storage, in the form that the SDK asks for. */
export interface Credential {
  getToken(
    scopes: string | string[],
    options?: { readonly abortSignal?: AbortSignalLike },
  ): Promise<{ readonly token: string; readonly expiresOnTimestamp: number }>;
}

/** The part of an AbortSignal that the SDK knows. */
export interface AbortSignalLike {
  readonly aborted: boolean;
}

/** Objects as block blobs in a container of Azure. */
export class AzureStore implements ObjectStore {
  readonly location: string;
  readonly #container: ContainerClient;
  readonly #prefix: string;
  readonly #tuning: StoreTuning;

  /** @throws `invalid_argument` for a connection string that cannot be read */
  constructor({ container, prefix, access }: AzurePlace, tuning: StoreTuning) {
    // The retries are ours, so that bodies which are cut off are repeated too.
    const options: StoragePipelineOptions = { retryOptions: { maxTries: 1 } };
    try {
      const service =
        "account" in access
          ? new BlobServiceClient(`https://${access.account}.blob.core.windows.net`, access.credential, options)
          : BlobServiceClient.fromConnectionString(access.connectionString, options);
      this.#container = service.getContainerClient(container);
    } catch (cause) {
      // The message of the SDK may quote the key.
      throw new SandboxError("invalid_argument", "AZURE_STORAGE_CONNECTION_STRING is not a connection string", {
        cause,
      });
    }
    this.#prefix = prefix;
    this.#tuning = tuning;
    this.location = `azblob://${container}/${prefix}?account=${this.#container.accountName}`;
  }

  async put(key: string, content: Uint8Array, signal: AbortSignal): Promise<void> {
    const transactionalContentMD5 = createHash("md5").update(content).digest();
    await this.#retry(`write ${key}`, signal, async (abortSignal) => {
      const options = { abortSignal, transactionalContentMD5 };
      await this.#container.getBlockBlobClient(this.#name(key)).upload(content, content.byteLength, options);
    });
  }

  async get(key: string, { range, signal }: GetOptions): Promise<Buffer | undefined> {
    return await this.#retry(`read ${key}`, signal, (abortSignal) =>
      unlessMissing(async () => {
        const blob = this.#container.getBlobClient(this.#name(key));
        const reply = await blob.download(range?.offset, range?.length, { abortSignal, maxRetryRequests: 0 });
        const parts: Buffer[] = [];
        for await (const part of reply.readableStreamBody ?? []) parts.push(part as Buffer);
        const bytes = Buffer.concat(parts);
        if (reply.contentLength !== undefined && bytes.length !== reply.contentLength) {
          throw new Error(`the content was cut off after ${bytes.length} of ${reply.contentLength} bytes`);
        }
        return bytes;
      }),
    );
  }

  async head(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    return await this.#retry(`look up ${key}`, signal, (abortSignal) =>
      unlessMissing(async () => {
        const blob = this.#container.getBlobClient(this.#name(key));
        const { contentLength = 0, lastModified = new Date(0) } = await blob.getProperties({ abortSignal });
        return { bytes: contentLength, modifiedAt: lastModified };
      }),
    );
  }

  async delete(key: string, signal: AbortSignal): Promise<void> {
    await this.#retry(`delete ${key}`, signal, async (abortSignal) => {
      await unlessMissing(() => this.#container.getBlobClient(this.#name(key)).delete({ abortSignal }));
    });
  }

  async *list(prefix: string, signal: AbortSignal): AsyncGenerator<ListedObject> {
    let token: string | undefined;
    do {
      const page = await this.#retry(`list ${prefix}`, signal, async (abortSignal) => {
        const pages = this.#container
          .listBlobsFlat({ prefix: `${this.#prefix}${prefix}`, abortSignal })
          .byPage(token === undefined ? {} : { continuationToken: token });
        return (await pages.next()).value;
      });
      for (const { name, properties } of page?.segment.blobItems ?? []) {
        const { contentLength = 0, lastModified } = properties;
        yield { key: name.slice(this.#prefix.length), bytes: contentLength, modifiedAt: lastModified };
      }
      token = page?.continuationToken === "" ? undefined : page?.continuationToken;
    } while (token !== undefined);
  }

  [Symbol.dispose](): void {
    // The SDK's connections close when they have been idle.
  }

  #name(key: string): string {
    requireKey(key);
    return `${this.#prefix}${key}`;
  }

  async #retry<T>(what: string, signal: AbortSignal, attempt: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return await withRetries({ what, tuning: this.#tuning, describe, signal }, attempt);
  }
}

/** The fields of the SDK's errors that are read here. */
interface AzureError extends Error {
  readonly statusCode?: number;
  readonly code?: string;
}

function describe(error: unknown): StoreFailure {
  const { name, message, statusCode, code = name } = error as AzureError;
  // The SDK's messages can be a page long.
  const detail = `${code}: ${message.split("\n")[0]}`;
  if (code === "ContainerNotFound") return { kind: "no bucket", detail };
  if (statusCode === 401 || statusCode === 403) return { kind: "refused", detail };
  return { kind: isTransient(statusCode, error) ? "transient" : "other", detail };
}

async function unlessMissing<T>(run: () => Promise<T>): Promise<T | undefined> {
  try {
    return await run();
  } catch (error) {
    const { statusCode, code } = error as AzureError;
    if (statusCode === 404 && code !== "ContainerNotFound") return undefined;
    throw error;
  }
}
