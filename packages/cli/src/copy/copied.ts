import type { Client } from "@opensandbox/sdk";

/** The progress of a copy, and its result. */
export interface Copied {
  files: number;
  directories: number;
  links: number;
  bytes: number;
}

/** The options of copies in both directions. */
export interface CopyContext {
  readonly client: Client;
  /** Updated during the copy. */
  readonly copied: Copied;
  /** Says of a path of this host that it is not to be copied. Absent: everything is. */
  readonly isExcluded?: (path: string, isDirectory: boolean) => boolean;
  /** Called for each entry that cannot be copied. */
  readonly note: (text: string) => void;
  readonly onProgress: () => void;
}

/** Enough parallel transfers to hide a round trip, few enough for a small machine. */
export const maxTransfers = 8;

/** Passes the bytes on and counts them. */
export async function* counted(
  content: AsyncIterable<Uint8Array>,
  { copied, onProgress }: CopyContext,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of content) {
    copied.bytes += chunk.length;
    onProgress();
    yield chunk;
  }
}
