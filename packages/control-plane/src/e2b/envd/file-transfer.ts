import { createHash } from "node:crypto";
import { posix } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { type SignedUrl, signedText } from "@opensandbox/wire/e2b/envd.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { type Part, partOf } from "#http/files/byte-range.ts";
import { accessTokenOf, type E2bContext, equalInConstantTime, orMissing } from "../e2b-context.ts";
import { contentOf, type EnvdCall, sendJson } from "./envd-call.ts";
import { setOwner } from "./filesystem.ts";
import { boundaryOf, partsOf } from "./multipart.ts";
import { pathFrom } from "./paths.ts";

/** Sends a file, or a part of it. */
export async function download(call: EnvdCall, query: URLSearchParams): Promise<void> {
  const { guest, account, request, response, signal } = call;
  const asked = query.get("path") ?? "";
  const path = pathFrom(account, asked);
  const entry = await orMissing(guest.files.stat(path, {}, signal));
  if (entry === undefined) {
    throw new SandboxError("not_found", `path '${path}' does not exist`, { resource: "file", id: path });
  }
  if (entry.kind === "directory") throw new SandboxError("invalid_argument", `path '${path}' is a directory`);
  const part = partOf(request.headers.range, entry.size);
  if (part === "unsatisfiable") {
    response.setHeader("content-range", `bytes */${entry.size}`);
    return sendJson(response, 416, { code: 416, message: `path '${path}' has only ${entry.size} bytes` });
  }
  const range = part === undefined ? {} : { offset: part.first, length: part.last - part.first + 1 };
  const { content } = await guest.files.read(path, range, signal);
  response.setHeader("content-type", "application/octet-stream");
  response.setHeader("content-disposition", `inline; filename*=UTF-8''${encodeURIComponent(entry.name)}`);
  response.setHeader("last-modified", new Date(entry.modifiedMs).toUTCString());
  response.setHeader("vary", "Accept-Encoding");
  await send(call, { part, size: entry.size, content });
}

async function send(
  { request, response, signal, use }: EnvdCall,
  {
    part,
    size,
    content,
  }: { readonly part: Part | undefined; readonly size: number; readonly content: AsyncIterable<Uint8Array> },
): Promise<void> {
  const stream = Readable.from(
    touching(content, () => use.touch()),
    { objectMode: false },
  );
  // Compress only for a client that accepts nothing but gzip. Every other client takes the plain bytes.
  if (part === undefined && request.headers["accept-encoding"]?.trim().toLowerCase() === "gzip") {
    response.writeHead(200, { "content-encoding": "gzip" });
    return await pipeline(stream, createGzip(), response, { signal });
  }
  if (part !== undefined) {
    const length = part.last - part.first + 1;
    response.writeHead(206, { "content-range": `bytes ${part.first}-${part.last}/${size}`, "content-length": length });
    // Files of /proc report a size of 0 although they have content.
  } else response.writeHead(200, size === 0 ? {} : { "content-length": size });
  await pipeline(stream, response, { signal });
}

async function* touching(content: AsyncIterable<Uint8Array>, touch: () => void): AsyncGenerator<Uint8Array> {
  for await (const chunk of content) {
    touch();
    yield chunk;
  }
}

/** Stores the files of a request: one as its body, or any number as parts of a form. */
export async function upload(call: EnvdCall, query: URLSearchParams): Promise<void> {
  const { request, response, account } = call;
  if (Object.keys(request.headers).some((name) => name.startsWith("x-metadata-"))) {
    throw new SandboxError("not_supported", "metadata of files (X-Metadata-...) is not implemented");
  }
  const asked = query.get("path");
  const boundary = boundaryOf(request.headers["content-type"]);
  if (boundary === undefined) {
    if (asked === null || asked === "") throw new SandboxError("invalid_argument", "path is required");
    const written = await store(call, pathFrom(account, asked), contentOf(request));
    return sendJson(response, 200, [written]);
  }
  const written: object[] = [];
  for await (const { name, filename, content } of partsOf(contentOf(request), boundary)) {
    if (name !== "file") continue;
    const path = asked === null || asked === "" ? filename : asked;
    if (path === undefined || path === "") throw new SandboxError("invalid_argument", "a file has no path");
    written.push(await store(call, pathFrom(account, path), content));
  }
  sendJson(response, 200, written);
}

async function store(call: EnvdCall, path: string, content: AsyncIterable<Uint8Array>): Promise<object> {
  const { guest, signal, use } = call;
  await guest.files.write(
    path,
    touching(content, () => use.touch()),
    {},
    signal,
  );
  await setOwner(call, path);
  return { name: posix.basename(path), path, type: "file" };
}

/** The status of a failed transfer, where it differs from that of other failures. */
export function transferStatus(error: unknown): number | undefined {
  // Clients read 507 as a full disk.
  return isSandboxError(error, "quota_exceeded") || isSandboxError(error, "no_capacity") ? 507 : undefined;
}

/** A URL that opens a file by its signature, without a header. */
export interface SignedRequest extends Omit<SignedUrl, "token"> {
  readonly signature: string;
}

export function signedRequestOf(method: string | undefined, query: URLSearchParams): SignedRequest | undefined {
  const signature = query.get("signature");
  if (signature === null) return undefined;
  return {
    signature,
    path: query.get("path") ?? "",
    operation: method === "POST" ? "write" : "read",
    username: query.get("username") ?? "",
    expiration: query.get("signature_expiration") ?? undefined,
  };
}

/** Whether a request carries the signature of a sandbox's token. */
export function isSigned(context: Pick<E2bContext, "tokenKey">, id: SandboxId, request: SignedRequest): boolean {
  return equalInConstantTime(request.signature, signatureOf({ ...request, token: accessTokenOf(context, id) }));
}

export function signatureOf(url: SignedUrl): string {
  return `v1_${createHash("sha256").update(signedText(url)).digest("base64").replace(/=+$/, "")}`;
}

/** @throws `unauthenticated` */
export function requireUnexpired({ expiration }: SignedRequest, now: number): void {
  if (expiration !== undefined && !(Number(expiration) * 1000 >= now)) {
    throw new SandboxError("unauthenticated", "signature is already expired");
  }
}
