import { createHash, type Hash } from "node:crypto";
import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { asSandboxError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { ImageReference } from "@opensandbox/wire/worker/image-reference.ts";
import { credentialsOf, endpointOf, type RegistrySettings } from "./registries.ts";

// A client of the OCI Distribution Specification 1.1, read-only:
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md. Tokens are those of
// https://distribution.github.io/distribution/spec/auth/token/.

/** A manifest or configuration is a few kilobytes; registries refuse more than 4 MiB. */
const maxDocumentBytes = 4 * 2 ** 20;
/** A connection that brings nothing for this long is given up. */
const idleMs = 30_000;
const attempts = 5;
const maxRedirects = 5;

/** Something in a registry, by its content. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

export interface Document {
  readonly mediaType: string;
  readonly digest: string;
  readonly bytes: Buffer;
}

const manifestTypes = [
  "application/vnd.oci.image.index.v1+json",
  "application/vnd.oci.image.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.list.v2+json",
  "application/vnd.docker.distribution.manifest.v2+json",
].join(", ");

/** One repository of a registry. Every byte that it returns has the digest that was asked for. */
export class Repository {
  readonly #settings: RegistrySettings;
  readonly #registry: string;
  readonly #name: string;
  readonly #origin: string;
  #authorization: string | undefined;

  /** @throws `permission_denied` for a registry that is not allowed here */
  constructor(settings: RegistrySettings, { registry, repository }: ImageReference) {
    this.#settings = settings;
    this.#registry = registry;
    this.#name = repository;
    this.#origin = endpointOf(settings, registry).origin;
  }

  /**
   * A manifest by its tag or digest.
   * @throws `not_found`; `permission_denied` without the right to read it; `unavailable`
   */
  async manifest(tagOrDigest: string, signal: AbortSignal): Promise<Document> {
    const path = `/v2/${this.#name}/manifests/${tagOrDigest}`;
    return await this.#again(signal, async (until) => {
      const response = await this.#get(path, { accept: manifestTypes }, until);
      const bytes = await this.#read(response, path, maxDocumentBytes);
      const digest = digestOf(bytes);
      if (tagOrDigest.startsWith("sha256:") && digest !== tagOrDigest) throw wrongDigest(path, digest);
      const mediaType = (response.headers.get("content-type") ?? "").split(";")[0] ?? "";
      return { mediaType, digest, bytes };
    });
  }

  /** A small blob, such as an image's configuration. */
  async document({ digest, mediaType }: Descriptor, signal: AbortSignal): Promise<Document> {
    const path = `/v2/${this.#name}/blobs/${digest}`;
    return await this.#again(signal, async (until) => {
      const bytes = await this.#read(await this.#get(path, {}, until), path, maxDocumentBytes);
      if (digestOf(bytes) !== digest) throw wrongDigest(path, digestOf(bytes));
      return { mediaType, digest, bytes };
    });
  }

  /** Writes a blob to a new file. An interrupted transfer goes on where it stopped. */
  async download(
    { digest, size }: Descriptor,
    file: string,
    onBytes: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const path = `/v2/${this.#name}/blobs/${digest}`;
    await using target = await open(file, "wx", 0o600);
    let hash = createHash("sha256");
    let written = 0;
    await this.#again(
      signal,
      async (until, alive) => {
        const range = written === 0 ? {} : { range: `bytes=${written}-` };
        const response = await this.#get(path, range, until);
        if (written > 0 && response.status !== 206) {
          // The registry sends all of it again.
          await target.truncate(0);
          onBytes(-written);
          [hash, written] = [createHash("sha256"), 0];
        }
        for await (const part of response.body ?? []) {
          alive();
          const bytes = part as Uint8Array;
          if (written + bytes.length > size)
            throw damaged(path, `it is longer than the ${size} bytes that were announced`);
          await writeAll(target, bytes, written);
          hash.update(bytes);
          written += bytes.length;
          onBytes(bytes.length);
        }
        if (written < size)
          throw new SandboxError("unavailable", `${this.#where(path)}: it ended after ${written} of ${size} bytes`);
      },
      () => written,
    );
    const found = finish(hash);
    if (found !== digest) throw wrongDigest(path, found);
  }

  /** Repeats work that fails for a reason that may pass. Progress between two failures starts the count anew. */
  async #again<T>(
    signal: AbortSignal,
    work: (until: AbortSignal, alive: () => void) => Promise<T>,
    progress: () => number = () => 0,
  ): Promise<T> {
    for (let [attempt, before] = [1, progress()]; ; attempt++) {
      const idle = new AbortController();
      const timer = setTimeout(() => idle.abort(), idleMs);
      try {
        return await work(AbortSignal.any([signal, idle.signal]), () => timer.refresh());
      } catch (error) {
        signal.throwIfAborted();
        const failure = idle.signal.aborted
          ? new SandboxError("unavailable", `${this.#registry} sent nothing for ${idleMs / 1000} s`, { cause: error })
          : transferError(this.#registry, error);
        if (progress() > before) [attempt, before] = [0, progress()];
        if (failure.code !== "unavailable" || attempt >= attempts) throw failure;
        await sleep(waitOf(error) ?? Math.min(500 * 2 ** attempt, 8000), undefined, { signal });
      } finally {
        clearTimeout(timer);
      }
    }
  }

  /** A successful answer, with the registry's authentication and redirects behind it. */
  async #get(path: string, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Response> {
    for (const last of [false, true]) {
      const authorization = this.#authorization === undefined ? {} : { authorization: this.#authorization };
      const response = await this.#follow(new URL(path, this.#origin), { ...headers, ...authorization }, signal);
      if (response.ok) return response;
      if (response.status === 401 && !last) {
        this.#authorization = await this.#authorize(response.headers.get("www-authenticate") ?? "", signal);
        await response.body?.cancel();
        continue;
      }
      throw await this.#failure(response, path);
    }
    throw new SandboxError("internal", "unreachable");
  }

  /** Follows redirects, as to a store of blobs. Credentials stay with the registry, and https is never left for http. */
  async #follow(first: URL, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<Response> {
    let url = first;
    for (let count = 0; count <= maxRedirects; count++) {
      const { authorization: _, ...withoutCredentials } = headers;
      const sent = url.origin === first.origin ? headers : withoutCredentials;
      const response = await fetch(url, { headers: sent, redirect: "manual", signal });
      if (![301, 302, 303, 307, 308].includes(response.status)) return response;
      await response.body?.cancel();
      const next = URL.parse(response.headers.get("location") ?? "", url);
      const isAllowed = next?.protocol === "https:" || (next?.protocol === "http:" && url.protocol === "http:");
      if (next === null || !isAllowed) throw damaged(first.pathname, "it redirects to an address that is no https URL");
      url = next;
    }
    throw damaged(first.pathname, `it redirects more than ${maxRedirects} times`);
  }

  /** The Authorization header that a challenge asks for (RFC 9110, section 11.6.1). */
  async #authorize(challenge: string, signal: AbortSignal): Promise<string | undefined> {
    const credentials = await credentialsOf(this.#settings, this.#registry);
    if (/^basic\b/i.test(challenge)) return credentials;
    if (!/^bearer\b/i.test(challenge)) return undefined;
    const parameters = new Map(
      [...challenge.matchAll(/([a-z_]+)="([^"]*)"/gi)].map(([, key = "", value = ""]) => [key.toLowerCase(), value]),
    );
    const realm = URL.parse(parameters.get("realm") ?? "");
    const isAllowed = realm?.protocol === "https:" || (realm?.protocol === "http:" && this.#origin.startsWith("http:"));
    if (realm === null || !isAllowed) throw damaged("/v2/", "it names no https address for tokens");
    const service = parameters.get("service");
    if (service !== undefined) realm.searchParams.set("service", service);
    realm.searchParams.set("scope", `repository:${this.#name}:pull`);
    const response = await this.#follow(realm, credentials === undefined ? {} : { authorization: credentials }, signal);
    if (!response.ok) throw await this.#failure(response, realm.pathname);
    const answer = parseJson(await this.#read(response, realm.pathname, maxDocumentBytes));
    const { token, access_token: accessToken } = (answer ?? {}) as Record<string, unknown>;
    const value = typeof token === "string" ? token : accessToken;
    if (typeof value !== "string" || !/^[\x21-\x7e]+$/.test(value))
      throw damaged(realm.pathname, "its answer has no token");
    return `Bearer ${value}`;
  }

  async #read(response: Response, path: string, maxBytes: number): Promise<Buffer> {
    const parts: Uint8Array[] = [];
    let size = 0;
    for await (const part of response.body ?? []) {
      const bytes = part as Uint8Array;
      size += bytes.length;
      if (size > maxBytes) throw damaged(path, `its answer has more than ${maxBytes} bytes`);
      parts.push(bytes);
    }
    return Buffer.concat(parts);
  }

  async #failure(response: Response, path: string): Promise<SandboxError> {
    const { status, headers } = response;
    await response.body?.cancel();
    const what = `${this.#where(path)}: status ${status}`;
    if (status === 404) {
      return new SandboxError("not_found", `${this.#registry} has no such image (${what})`, {
        resource: "image",
        id: `${this.#registry}/${this.#name}`,
      });
    }
    if (status === 401 || status === 403) {
      return new SandboxError(
        "permission_denied",
        `${this.#registry} does not let this server read the image, if there is one (${what}): ` +
          "its operator names credentials by OPENSANDBOX_REGISTRY_CREDENTIALS",
      );
    }
    const isTemporary = status === 429 || status >= 500;
    const wait = Number(headers.get("retry-after"));
    const cause = new Wait(isTemporary && wait > 0 ? Math.min(wait * 1000, 30_000) : undefined);
    return new SandboxError(isTemporary ? "unavailable" : "invalid_argument", what, { cause });
  }

  #where(path: string): string {
    return `${this.#registry}${path}`;
  }
}

/** How long a registry asks to be left alone, in milliseconds. */
class Wait extends Error {
  readonly milliseconds: number | undefined;

  constructor(milliseconds: number | undefined) {
    super("the registry's Retry-After");
    this.milliseconds = milliseconds;
  }
}

function waitOf(error: unknown): number | undefined {
  return error instanceof Error && error.cause instanceof Wait ? error.cause.milliseconds : undefined;
}

/** Failures of connections are `unavailable`, and say their reason, which fetch hides in the cause. */
function transferError(registry: string, error: unknown): SandboxError {
  if (isSandboxError(error)) return error;
  if (!(error instanceof TypeError)) return asSandboxError(error);
  const reason = error.cause instanceof Error ? error.cause.message : error.message;
  return new SandboxError("unavailable", `cannot reach the registry ${registry}: ${reason}`, { cause: error });
}

/** The digest of bytes, in the form of a registry. */
export function digestOf(bytes: Uint8Array): string {
  return finish(createHash("sha256").update(bytes));
}

function finish(hash: Hash): string {
  return `sha256:${hash.digest("hex")}`;
}

function wrongDigest(path: string, found: string): SandboxError {
  return damaged(path, `its content has the digest ${found}`);
}

function damaged(path: string, what: string): SandboxError {
  return new SandboxError("invalid_argument", `the registry's answer to ${path} cannot be used: ${what}`);
}

export function parseJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch {
    return undefined;
  }
}

async function writeAll(file: Awaited<ReturnType<typeof open>>, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}
