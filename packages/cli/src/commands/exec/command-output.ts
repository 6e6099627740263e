import { visibleText } from "#output/visible-text.ts";
import { type Output, writeTo } from "#output/write-to.ts";

/** Where the output of a command goes. */
export interface CommandOutput {
  /** Returns when there is room for more. */
  write(pipe: "stdout" | "stderr", bytes: Uint8Array, signal: AbortSignal): Promise<void>;
  /** Something about the command that it does not say itself. */
  complain(message: string): void;
}

/** Straight to the streams of this process. */
export function passedThrough(streams: { readonly stdout: Output; readonly stderr: Output }): CommandOutput {
  return {
    write: async (pipe, bytes, signal) => await writeTo(streams[pipe], bytes, signal),
    complain: (message) => {
      streams.stderr.write(`osb: ${visibleText(message)}\n`);
    },
  };
}

// As much as the server keeps of a command that it collects the output of.
const maxCollectedBytes = 64 * 2 ** 20;

export interface CollectedOutput extends CommandOutput {
  collected(): { readonly stdout: string; readonly stderr: string; readonly truncated?: true };
}

/** Kept, to be told with the command's end. What is too much is dropped. */
export function collectedOutput(): CollectedOutput {
  const kept: Record<"stdout" | "stderr", Uint8Array[]> = { stdout: [], stderr: [] };
  let size = 0;
  let truncated = false;
  return {
    write: async (pipe, bytes) => {
      truncated ||= size + bytes.length > maxCollectedBytes;
      if (truncated) return;
      size += bytes.length;
      kept[pipe].push(bytes);
    },
    complain: (message) => {
      kept.stderr.push(Buffer.from(`osb: ${message}\n`));
    },
    // Decoded at once, so that no character is cut where two chunks meet.
    collected: () => ({
      stdout: Buffer.concat(kept.stdout).toString("utf8"),
      stderr: Buffer.concat(kept.stderr).toString("utf8"),
      ...(truncated ? { truncated } : {}),
    }),
  };
}
