import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

export interface PackageRequest {
  /** A path, or an address of http or https. */
  readonly from: string;
  /** The expected SHA-256. Absent: of a URL, the one in SHA256SUMS beside it; of a file, any. */
  readonly sha256: string | undefined;
  /** Receives the file of a URL. */
  readonly directory: string;
}

/**
 * The path of a package whose hash is right.
 * @throws `invalid_argument` for a file that does not exist or has another hash, `unavailable` when a server has no answer
 */
export async function fetchPackage(
  { from, sha256, directory }: PackageRequest,
  signal: AbortSignal,
): Promise<{ readonly file: string; readonly sha256: string }> {
  const isRemote = /^https?:\/\//.test(from);
  const file = isRemote ? join(directory, basename(new URL(from).pathname)) : from;
  const expected = sha256 ?? (isRemote ? await publishedHash(from, signal) : undefined);
  if (isRemote) {
    const { body } = await get(from, signal);
    await pipeline(Readable.fromWeb(body), createWriteStream(file), { signal });
  } else if (!(await stat(file).catch(() => undefined))?.isFile()) {
    throw new SandboxError("invalid_argument", `${file} is not a file`);
  }
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  const found = hash.digest("hex");
  if (expected === undefined || found === expected) return { file, sha256: found };
  const message = `${from} is not the expected package: its SHA-256 is ${found}, and ${expected} is expected`;
  throw new SandboxError("invalid_argument", message);
}

async function publishedHash(from: string, signal: AbortSignal): Promise<string> {
  const list = new URL("SHA256SUMS", from).href;
  const name = basename(new URL(from).pathname);
  const text = await (await get(list, signal)).text();
  const line = text.split("\n").find((line) => line.endsWith(`  ${name}`));
  const hash = /^[0-9a-f]{64}(?= )/.exec(line ?? "")?.[0];
  if (hash !== undefined) return hash;
  throw new SandboxError("unavailable", `${list} has no hash of ${name}: give it with --sha256`);
}

async function get(url: string, signal: AbortSignal): Promise<Response & { readonly body: ReadableStream }> {
  const response = await fetch(url, { signal }).catch((cause: unknown) => {
    throw new SandboxError("unavailable", `cannot fetch ${url}: ${(cause as Error).message}`, { cause });
  });
  if (response.ok && response.body !== null) return response as Response & { readonly body: ReadableStream };
  throw new SandboxError("unavailable", `cannot fetch ${url}: the server answered ${response.status}`);
}
