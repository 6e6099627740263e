import { join } from "node:path";

/** A version whose files later versions must read. */
export interface Release {
  readonly name: string;
  /** The path of one of the files that this version wrote. */
  file(name: string): string;
}

/**
 * Each release has a directory of files that its own code wrote: a database with a row of each kind, manifests of a
 * snapshot with memory and of one without, the journal entry of a running sandbox, and the manifest of an image. They
 * are never written again. A release that changes one of these formats adds a directory.
 */
export const releases: readonly Release[] = ["d64b825"].map((name) => ({
  name,
  file: (file) => join(import.meta.dirname, name, file),
}));
