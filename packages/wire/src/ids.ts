import { SandboxError } from "./errors.ts";

declare const sandboxId: unique symbol;
declare const snapshotId: unique symbol;

/** A UUID. The caller of a capture chooses it, so that a capture whose answer was lost can still be found. */
export type SnapshotId = string & { readonly [snapshotId]: true };

export function newSnapshotId(): SnapshotId {
  return crypto.randomUUID() as string as SnapshotId;
}

/** `sb-` and 16 hexadecimal digits: 64 random bits, since the name of an open preview must not be guessable. */
export type SandboxId = string & { readonly [sandboxId]: true };

/** The text of a sandbox's id, without anchors. Ids of eight digits were made by earlier versions and stay valid. */
export const sandboxIdPattern = /sb-(?:[0-9a-f]{16}|[0-9a-f]{8})/;

const wholeSandboxId = new RegExp(`^${sandboxIdPattern.source}$`);

/** The id from outside, or `not_found`: a text that is not an id names no sandbox. */
export function parseSandboxId(text: string): SandboxId {
  if (!wholeSandboxId.test(text)) {
    throw new SandboxError("not_found", "sandbox not found", { resource: "sandbox", id: text });
  }
  return text as SandboxId;
}

export function newSandboxId(): SandboxId {
  return `sb-${randomHex(8)}` as SandboxId;
}

/** Random bytes as hexadecimal digits, from the platform's cryptographic source. */
export function randomHex(bytes: number): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(bytes))).toString("hex");
}
