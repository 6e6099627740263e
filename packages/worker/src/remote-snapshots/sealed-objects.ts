import { createCipheriv, createDecipheriv, createHmac, hkdfSync, randomBytes, subtle } from "node:crypto";
import { promisify } from "node:util";
import { zstdCompress, zstdDecompress } from "node:zlib";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ObjectStore } from "#object-store/object-store.ts";
import { refreshAgeMs } from "./object-ages.ts";

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

/** The first byte of an object. */
const formats = { zstd: 1, encryptedZstd: 2 } as const;
const nonceBytes = 12;
const tagBytes = 16;

/** More than a chunk or an index has: an object that claims more is damaged. */
const maxPlainBytes = 64 * 2 ** 20;

export const objectKeyBytes = 32;

/**
 * Objects that are compressed, and encrypted when there is a key. Encrypted objects are bound to their names, and names
 * that come from contents are keyed hashes, so that the store learns neither the contents nor whether a known file is
 * among them.
 *
 * An object is one byte for its format, then zstd, or a nonce of 12 bytes, AES-256-GCM over zstd, and a tag of 16 bytes.
 */
export class SealedObjects {
  readonly store: ObjectStore;
  readonly #keys: { readonly names: Buffer; readonly contents: Buffer } | undefined;

  /** @param key 32 bytes; absent: objects are not encrypted, and encrypted ones cannot be read */
  constructor(store: ObjectStore, key: Buffer | undefined) {
    this.store = store;
    this.#keys =
      key === undefined ? undefined : { names: derive(key, "names"), contents: derive(key, "contents of objects") };
  }

  /** A name that equal contents share, in hexadecimal. */
  async nameOf(content: Uint8Array<ArrayBuffer>): Promise<string> {
    // In a thread of the runtime, since it takes milliseconds.
    const hash = Buffer.from(await subtle.digest("SHA-256", content));
    return this.keyed(hash.toString("hex"));
  }

  /** A name for a hash of contents that is known already, in hexadecimal. */
  keyed(hash: string): string {
    return this.#keys === undefined ? hash : createHmac("sha256", this.#keys.names).update(hash).digest("hex");
  }

  async put(key: string, content: Uint8Array, signal: AbortSignal): Promise<void> {
    await this.store.put(key, this.#seal(key, await compress(content)), signal);
  }

  /** Undefined: there is no such object. @throws `incompatible` for one that is damaged or has another key */
  async get(key: string, signal: AbortSignal): Promise<Buffer<ArrayBuffer> | undefined> {
    const sealed = await this.store.get(key, { signal });
    if (sealed === undefined) return undefined;
    try {
      return await decompress(this.#open(key, sealed), { maxOutputLength: maxPlainBytes });
    } catch (cause) {
      throw damaged(`object ${key} ${(cause as Error).message}`, { cause });
    }
  }

  /** Whether an object exists that no sweep removes soon. */
  async isFresh(key: string, signal: AbortSignal): Promise<boolean> {
    const found = await this.store.head(key, signal);
    return found !== undefined && Date.now() - found.modifiedAt.getTime() < refreshAgeMs;
  }

  #seal(key: string, compressed: Buffer): Buffer {
    if (this.#keys === undefined) return Buffer.concat([Buffer.of(formats.zstd), compressed]);
    const nonce = randomBytes(nonceBytes);
    const cipher = createCipheriv("aes-256-gcm", this.#keys.contents, nonce).setAAD(Buffer.from(key));
    const parts = [Buffer.of(formats.encryptedZstd), nonce, cipher.update(compressed), cipher.final()];
    return Buffer.concat([...parts, cipher.getAuthTag()]);
  }

  #open(key: string, sealed: Buffer): Buffer {
    const [format] = sealed;
    if (this.#keys === undefined) {
      if (format === formats.zstd) return sealed.subarray(1);
      if (format === formats.encryptedZstd) throw new Error("is encrypted: set OPENSANDBOX_OBJECT_STORE_KEY");
    } else if (format === formats.encryptedZstd && sealed.length > 1 + nonceBytes + tagBytes) {
      const nonce = sealed.subarray(1, 1 + nonceBytes);
      const decipher = createDecipheriv("aes-256-gcm", this.#keys.contents, nonce).setAAD(Buffer.from(key));
      decipher.setAuthTag(sealed.subarray(-tagBytes));
      return Buffer.concat([decipher.update(sealed.subarray(1 + nonceBytes, -tagBytes)), decipher.final()]);
    } else if (format === formats.zstd) {
      throw new Error("is not encrypted although there is a key");
    }
    throw new Error("has an unknown format");
  }
}

/** The error for a stored snapshot whose objects cannot be used. */
export function damaged(why: string, options?: ErrorOptions): SandboxError {
  return new SandboxError("incompatible", `the stored snapshot is damaged: ${why}`, { reason: "damaged" }, options);
}

function derive(key: Buffer, purpose: string): Buffer {
  return Buffer.from(hkdfSync("sha256", key, "", `opensandbox ${purpose}`, objectKeyBytes));
}
