import { X509Certificate } from "node:crypto";
import { open } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** One call to a guest carries the certificates, and its messages have at most twice this size. */
const maxBytes = 64 * 1024;

const block = /-----BEGIN ([A-Z0-9 ]+)-----[^]*?(?:-----END \1-----|$)/g;

/** Certificates that every guest trusts besides those of its image. */
export interface ExtraAuthorities {
  readonly count: number;
  /** PEM: only certificates, without the comments between them. */
  readonly certificates: string;
}

/**
 * Reads the certificates that guests are to trust (PEM).
 * @throws `invalid_argument` for a file that cannot be read, is larger than 64 KiB, or has anything but certificates
 */
export async function readExtraAuthorities(file: string): Promise<ExtraAuthorities> {
  const refuse = (why: string, cause?: unknown): SandboxError =>
    new SandboxError("invalid_argument", `OPENSANDBOX_EXTRA_CA: ${file} ${why}`, { cause });
  const content = await readBounded(file).catch((cause: unknown) => {
    throw refuse(`cannot be read: ${(cause as Error).message}`, cause);
  });
  if (content === undefined) throw refuse(`is larger than ${maxBytes / 1024} KiB: name only the authorities you need`);
  const certificates: string[] = [];
  for (const [text, label] of content.matchAll(block)) {
    const which = `block ${certificates.length + 1}`;
    // A private key would reach every guest.
    if (label !== "CERTIFICATE") throw refuse(`has a ${label} in ${which}: it may have certificates alone`);
    try {
      certificates.push(new X509Certificate(text).toString());
    } catch (cause) {
      throw refuse(`has a certificate that cannot be parsed in ${which}: ${(cause as Error).message}`, cause);
    }
  }
  if (certificates.length === 0) throw refuse("has no certificate: write certificates as PEM");
  return { count: certificates.length, certificates: certificates.join("") };
}

/** Undefined: the file is too large. */
async function readBounded(file: string): Promise<string | undefined> {
  await using handle = await open(file);
  const buffer = Buffer.alloc(maxBytes + 1);
  let length = 0;
  while (length < buffer.length) {
    const { bytesRead } = await handle.read(buffer, length, buffer.length - length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return length > maxBytes ? undefined : buffer.toString("latin1", 0, length);
}
