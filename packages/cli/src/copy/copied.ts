import type { Client } from "@opensandbox/sdk";

/** What a copy has done. */
export interface Copied {
  files: number;
  directories: number;
  links: number;
  bytes: number;
}

/** What copying in either direction needs. */
export interface CopyContext {
  readonly client: Client;
  /** Counted as it goes on. */
  readonly copied: Copied;
  /** Hears of what is left out. */
  readonly note: (text: string) => void;
  readonly onProgress: () => void;
}

/** Transfers at once: enough to hide a round trip, few enough for a small machine. */
export const atOnce = 8;

/** The bytes as they pass, counted. */
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
