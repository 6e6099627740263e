import type { ImageManifest, ImageStep } from "@opensandbox/wire/public/images.ts";

/** An image that steps in a hidden sandbox make from another image, kept as a checkpoint. */
export interface Image {
  /** A UUID. */
  readonly id: string;
  readonly organizationId: string;
  /** SHA-256 of base and steps, hexadecimal. */
  readonly contentHash: string;
  /** Absent: built for a create and found by its content. */
  readonly name?: string | undefined;
  /** Absent until it is ready. */
  readonly checkpointId?: string | undefined;
  readonly manifest: ImageManifest;
  readonly status: "building" | "ready" | "failed";
  /** The worker that builds it while it is `building`. */
  readonly workerId: string;
  readonly createdAt: Date;
  readonly lastUsedAt: Date;
  readonly error?: string | undefined;
}

/** A line of the log of a build. */
export interface BuildLog {
  /** The number of the step, starting at 1; 0 before the first step. */
  readonly step: number;
  readonly type: ImageStep["type"] | "progress" | "cache_hit";
  readonly message: string;
}
