import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { basename } from "node:path";
import { createHash } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { copyBytes } from "./changed-pages.ts";
import { type DeltaFooter, footerBytes, readFooter } from "./delta.ts";

/** Opens a delta for reading. @throws `incompatible` when the file is missing */
export function openDelta(file: string): number {
  try {
    return openSync(file, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") throw damagedDelta(file);
    throw error;
  }
}

/** @throws `incompatible` for a file that is not a delta */
export function readFooterOf(fd: number, file: string): DeltaFooter {
  const { size } = fstatSync(fd);
  if (size < footerBytes) throw damagedDelta(file);
  return readFooter(readAt(fd, size - footerBytes, footerBytes), size);
}

/** Exactly `length` bytes at `position`, in `buffer` or in a buffer of their own. */
export function readAt(fd: number, position: number, length: number, buffer?: Buffer): Buffer {
  const bytes = buffer?.subarray(0, length) ?? Buffer.allocUnsafeSlow(length);
  for (let at = 0; at < length;) {
    const count = readSync(fd, bytes, at, length - at, position + at);
    if (count === 0)
      throw new SandboxError("incompatible", "the snapshot is damaged: one of its files is too short", {
        reason: "damaged",
      });
    at += count;
  }
  return bytes;
}

/** The size and SHA-256 of a file. */
export function hashFile(file: string): { readonly bytes: number; readonly sha256: string } {
  const fd = openSync(file, "r");
  try {
    const hash = createHash("sha256");
    const chunk = Buffer.allocUnsafeSlow(copyBytes);
    let bytes = 0;
    for (;;) {
      const count = readSync(fd, chunk, 0, chunk.length, bytes);
      if (count === 0) return { bytes, sha256: hash.digest("hex") };
      hash.update(chunk.subarray(0, count));
      bytes += count;
    }
  } finally {
    closeSync(fd);
  }
}

export function damagedDelta(file: string): SandboxError {
  return new SandboxError("incompatible", `the snapshot is damaged: ${basename(file)} does not match its manifest`, {
    reason: "damaged",
  });
}
