import { SandboxError } from "./errors.ts";

declare const sandboxId: unique symbol;
declare const snapshotId: unique symbol;

/** A UUID. Chosen by who asks for the capture, so that a capture whose answer was lost can be found. */
export type SnapshotId = string & { readonly [snapshotId]: true };

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** The id from outside, or `not_found`: what is no id names no snapshot. */
export function parseSnapshotId(text: string): SnapshotId {
  if (!uuidPattern.test(text)) {
    throw new SandboxError("not_found", "snapshot not found", { resource: "snapshot", id: text });
  }
  return text as SnapshotId;
}

export function newSnapshotId(): SnapshotId {
  return crypto.randomUUID() as string as SnapshotId;
}

/** `sb-` and eight hexadecimal digits. Of fixed length: some hypervisors store it in their snapshots. */
export type SandboxId = string & { readonly [sandboxId]: true };

const sandboxIdPattern = /^sb-[0-9a-f]{8}$/;

/** The id from outside, or `not_found`: what is no id names no sandbox. */
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
