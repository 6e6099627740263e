import type { ImageManifest, ImageStep } from "@opensandbox/wire/public/images.ts";

/** An image that is made of another one by steps, in a hidden sandbox, and kept as a checkpoint. */
export interface Image {
  /** A UUID. */
  readonly id: string;
  readonly organizationId: string;
  /** SHA-256 of base and steps, hexadecimal. */
  readonly contentHash: string;
  /** Absent: made for a create, and found by its content alone. */
  readonly name?: string | undefined;
  /** Absent until it is ready. */
  readonly checkpointId?: string | undefined;
  readonly manifest: ImageManifest;
  readonly status: "building" | "ready" | "failed";
  /** Who builds it, as long as it is `building`. */
  readonly workerId: string;
  readonly createdAt: Date;
  readonly lastUsedAt: Date;
  readonly error?: string | undefined;
}

/** What is told while an image is built. */
export interface BuildLog {
  /** 0: before the first one. */
  readonly step: number;
  readonly type: ImageStep["type"] | "progress" | "cache_hit";
  readonly message: string;
}
