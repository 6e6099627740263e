import { createHash } from "node:crypto";
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import { type GetOptions, type ListedObject, type ObjectInfo, type ObjectStore, requireKey } from "./object-store.ts";
import { isTransient, type StoreFailure, type StoreTuning, withRetries } from "./retry.ts";

export interface S3Place {
  readonly bucket: string;
  /** Ends with a slash, or is empty. */
  readonly prefix: string;
  /** A server that speaks S3 in place of Amazon's. It gets the bucket in the path. */
  readonly endpoint?: string;
  readonly region?: string;
}

/** Objects in a bucket of S3. The SDK finds the credentials: environment, shared files, or the role of the host. */
export class S3Store implements ObjectStore {
  readonly location: string;
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #tuning: StoreTuning;

  constructor({ bucket, prefix, endpoint, region }: S3Place, tuning: StoreTuning) {
    this.#bucket = bucket;
    this.#prefix = prefix;
    this.#tuning = tuning;
    this.location = `s3://${bucket}/${prefix}${endpoint === undefined ? "" : `?endpoint=${endpoint}`}`;
    this.#client = new S3Client({
      ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
      ...(region === undefined ? {} : { region }),
      // The retries are ours, so that bodies which are cut off are repeated too.
      maxAttempts: 1,
      // The MD5 in each put covers what the SDK's own checksums would, and servers other than Amazon's check it.
      requestChecksumCalculation: "WHEN_REQUIRED",
      responseChecksumValidation: "WHEN_REQUIRED",
    });
  }

  async put(key: string, content: Uint8Array, signal: AbortSignal): Promise<void> {
    const ContentMD5 = createHash("md5").update(content).digest("base64");
    await this.#retry(`write ${key}`, signal, async (abortSignal) => {
      const command = new PutObjectCommand({ ...this.#of(key), Body: content, ContentMD5 });
      await this.#client.send(command, { abortSignal });
    });
  }

  async get(key: string, { range, signal }: GetOptions): Promise<Buffer | undefined> {
    return await this.#retry(`read ${key}`, signal, (abortSignal) =>
      unlessMissing(async () => {
        const { Body, ContentLength } = await this.#client.send(
          new GetObjectCommand({ ...this.#of(key), ...(range === undefined ? {} : { Range: rangeHeader(range) }) }),
          { abortSignal },
        );
        const bytes = Buffer.from((await Body?.transformToByteArray()) ?? []);
        if (ContentLength !== undefined && bytes.length !== ContentLength) {
          throw new Error(`the content was cut off after ${bytes.length} of ${ContentLength} bytes`);
        }
        return bytes;
      }),
    );
  }

  async head(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined> {
    return await this.#retry(`look up ${key}`, signal, (abortSignal) =>
      unlessMissing(async () => {
        const { ContentLength, LastModified } = await this.#client.send(new HeadObjectCommand(this.#of(key)), {
          abortSignal,
        });
        return { bytes: ContentLength ?? 0, modifiedAt: LastModified ?? new Date(0) };
      }),
    );
  }

  async delete(key: string, signal: AbortSignal): Promise<void> {
    await this.#retry(`delete ${key}`, signal, async (abortSignal) => {
      await unlessMissing(() => this.#client.send(new DeleteObjectCommand(this.#of(key)), { abortSignal }));
    });
  }

  async *list(prefix: string, signal: AbortSignal): AsyncGenerator<ListedObject> {
    let token: string | undefined;
    do {
      const page = await this.#retry(`list ${prefix}`, signal, (abortSignal) =>
        this.#client.send(
          new ListObjectsV2Command({
            Bucket: this.#bucket,
            Prefix: `${this.#prefix}${prefix}`,
            ...(token === undefined ? {} : { ContinuationToken: token }),
          }),
          { abortSignal },
        ),
      );
      for (const { Key = "", Size = 0, LastModified = new Date(0) } of page.Contents ?? []) {
        yield { key: Key.slice(this.#prefix.length), bytes: Size, modifiedAt: LastModified };
      }
      token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
    } while (token !== undefined);
  }

  [Symbol.dispose](): void {
    this.#client.destroy();
  }

  #of(key: string): { readonly Bucket: string; readonly Key: string } {
    requireKey(key);
    return { Bucket: this.#bucket, Key: `${this.#prefix}${key}` };
  }

  async #retry<T>(what: string, signal: AbortSignal, attempt: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return await withRetries({ what, tuning: this.#tuning, describe, signal }, attempt);
  }
}

/** The fields of the SDK's errors that are read here. */
interface S3Error extends Error {
  readonly $metadata?: { readonly httpStatusCode?: number };
}

function describe(error: unknown): StoreFailure {
  const { name, message, $metadata } = error as S3Error;
  const status = $metadata?.httpStatusCode;
  const detail = `${name}: ${message}`;
  if (name === "NoSuchBucket") return { kind: "no bucket", detail };
  if (name === "CredentialsProviderError" || status === 401 || status === 403) return { kind: "refused", detail };
  return { kind: isTransient(status, error) ? "transient" : "other", detail };
}

async function unlessMissing<T>(run: () => Promise<T>): Promise<T | undefined> {
  try {
    return await run();
  } catch (error) {
    const { name, $metadata } = error as S3Error;
    if ($metadata?.httpStatusCode === 404 && name !== "NoSuchBucket") return undefined;
    throw error;
  }
}

function rangeHeader({ offset, length }: NonNullable<GetOptions["range"]>): string {
  return `bytes=${offset}-${offset + length - 1}`;
}
