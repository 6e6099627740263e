import { createHash } from "node:crypto";
import { z } from "zod";
import type { System } from "./system.ts";

/** A file of the host that a step replaces: its earlier content, and a hash of what the step wrote. */
export const ownedFile = z.object({
  path: z.string(),
  /** Null: the file did not exist. */
  before: z.string().nullable(),
  written: z.string(),
});
export type OwnedFile = z.infer<typeof ownedFile>;

/** The record for a file that is about to be written. A file keeps the content from before the first change. */
export async function claim(
  system: System,
  path: string,
  content: string,
  earlier: OwnedFile | undefined,
): Promise<OwnedFile> {
  const before = earlier === undefined ? ((await system.read(path)) ?? null) : earlier.before;
  return { path, before, written: hashOf(content) };
}

/** Restores the earlier content, unless somebody has edited the file since. Returns what it did. */
export async function release(system: System, { path, before, written }: OwnedFile): Promise<string> {
  const content = await system.read(path);
  if (content === undefined || content === before) return `${path} was not changed`;
  if (hashOf(content) !== written) return `kept ${path}, which was edited after the set-up`;
  if (before === null) {
    await system.remove(path);
    return `removed ${path}`;
  }
  await system.write(path, before);
  return `restored ${path}`;
}

function hashOf(content: string): string {
  return createHash("sha256").update(content).digest("hex");
}
