import { visibleText } from "#output/visible-text.ts";
import { type Output, writeTo } from "#output/write-to.ts";

/** The destination of a command's output. */
export interface CommandOutput {
  /** Resolves when more may be written. */
  write(pipe: "stdout" | "stderr", bytes: Uint8Array, signal: AbortSignal): Promise<void>;
  /** Writes a message about the command that is not part of its own output. */
  report(message: string): void;
}

/** Passes output through to the streams of this process, unchanged. */
export function passThrough(streams: { readonly stdout: Output; readonly stderr: Output }): CommandOutput {
  return {
    write: async (pipe, bytes, signal) => await writeTo(streams[pipe], bytes, signal),
    report: (message) => {
      streams.stderr.write(`osb: ${visibleText(message)}\n`);
    },
  };
}

// The server's own limit for collected output.
const maxCollectedBytes = 64 * 2 ** 20;

export interface CollectedOutput extends CommandOutput {
  collected(): { readonly stdout: string; readonly stderr: string; readonly truncated?: true };
}

/** Collects output, up to 64 MiB, as part of the command's result. */
export function collectOutput(): CollectedOutput {
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
    report: (message) => {
      kept.stderr.push(Buffer.from(`osb: ${message}\n`));
    },
    // The output is decoded as a whole, because a character may span two chunks.
    collected: () => ({
      stdout: Buffer.concat(kept.stdout).toString("utf8"),
      stderr: Buffer.concat(kept.stderr).toString("utf8"),
      ...(truncated ? { truncated } : {}),
    }),
  };
}
