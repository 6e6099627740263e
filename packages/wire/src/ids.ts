import { SandboxError } from "./errors.ts";

declare const sandboxId: unique symbol;
declare const snapshotId: unique symbol;

/** A UUID, chosen by the caller of a capture, so that a snapshot whose answer was lost can be found. */
export type SnapshotId = string & { readonly [snapshotId]: true };

export function newSnapshotId(): SnapshotId {
  return crypto.randomUUID() as string as SnapshotId;
}

/** `sb-` and eight hexadecimal digits. Of fixed length: some hypervisors store it in their snapshots. */
export type SandboxId = string & { readonly [sandboxId]: true };

const sandboxIdPattern = /^sb-[0-9a-f]{8}$/;

/** Parses an id from a client. Anything that is not an id is `not_found`, since it names no sandbox. */
export function parseSandboxId(text: string): SandboxId {
  if (!sandboxIdPattern.test(text)) {
    throw new SandboxError("not_found", "sandbox not found", { resource: "sandbox", id: text });
  }
  return text as SandboxId;
}

export function newSandboxId(): SandboxId {
  return `sb-${randomHex(4)}` as SandboxId;
}

/** Random bytes as hexadecimal digits, from the platform's cryptographic source. */
export function randomHex(bytes: number): string {
  return Buffer.from(crypto.getRandomValues(new Uint8Array(bytes))).toString("hex");
}
