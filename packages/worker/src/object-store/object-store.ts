/**
 * Objects of bytes under keys, in a directory, in S3 or in Azure Blob. A put replaces an object as a whole: a reader finds
 * the earlier content or the new one. Every method retries transient failures for a bounded time, and gives up when its
 * signal aborts.
 *
 * Errors are `unavailable` when the store does not answer or answers with a transient failure to every attempt,
 * `permission_denied` when it refuses the credentials, and `invalid_argument` when the bucket or container is missing.
 */
export interface ObjectStore extends Disposable {
  /** The place of the objects without credentials. Stores with equal locations hold the same objects. */
  readonly location: string;
  /** Resolves when the store has confirmed the object with its checksum. */
  put(key: string, content: Uint8Array, signal: AbortSignal): Promise<void>;
  /** The content, or a part of it. Undefined: there is no such object. */
  get(key: string, options: GetOptions): Promise<Buffer | undefined>;
  /** Undefined: there is no such object. */
  head(key: string, signal: AbortSignal): Promise<ObjectInfo | undefined>;
  /** Deleting an object that does not exist succeeds. */
  delete(key: string, signal: AbortSignal): Promise<void>;
  /** All objects whose keys begin with `prefix`. */
  list(prefix: string, signal: AbortSignal): AsyncIterable<ListedObject>;
}

export interface GetOptions {
  readonly signal: AbortSignal;
  /** Offset and length in bytes, within the object. Absent: the whole object. */
  readonly range?: ByteRange;
}

export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

export interface ObjectInfo {
  readonly bytes: number;
  readonly modifiedAt: Date;
}

export interface ListedObject extends ObjectInfo {
  readonly key: string;
}

/** The characters that every store accepts in keys without escaping. */
const keyPattern = /^[A-Za-z0-9_-][A-Za-z0-9._-]*(\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$/;

/** @throws for a key that some store would change or refuse */
export function requireKey(key: string): void {
  if (!keyPattern.test(key)) throw new Error(`${JSON.stringify(key)} cannot be the key of an object`);
}
