import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/**
 * When the lease of a data directory's worker was last renewed, for the next process on the directory. The machines run on
 * between two processes, so the next one has what is left of the lease, and not a whole one.
 */
export class LeaseFile {
  readonly #path: string;

  constructor(dataDirectory: string) {
    this.#path = join(dataDirectory, "fleet-lease");
  }

  /** Notes that the lease is renewed now. */
  renew(): void {
    // Not flushed: a crash of the host ends the machines, too.
    writeFileSync(`${this.#path}.new`, JSON.stringify({ bootId: bootId(), renewedMs: nowMs() } satisfies Renewal));
    renameSync(`${this.#path}.new`, this.#path);
  }

  /** What is left of a lease, in milliseconds. A whole one where none was renewed since this host booted. */
  leftOf(leaseMs: number): number {
    const last = this.#read();
    return last?.bootId === bootId() ? leaseMs - (nowMs() - last.renewedMs) : leaseMs;
  }

  #read(): Renewal | undefined {
    try {
      return JSON.parse(readFileSync(this.#path, "utf8")) as Renewal;
    } catch (error) {
      // A power cut may leave an empty file.
      if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }
}

interface Renewal {
  readonly bootId: string;
  /** By the host's monotonic clock, which all processes share. */
  readonly renewedMs: number;
}

function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}

function nowMs(): number {
  return Number(process.hrtime.bigint() / 1_000_000n);
}
