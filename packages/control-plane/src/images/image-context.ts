import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { RowRetention } from "../retention/row-retention.ts";
import type { Builds } from "./builds.ts";
import type { ImageStore } from "./image-store.ts";
import type { Image } from "./image.ts";

/** The dependencies of the use cases of images. */
export interface ImageContext {
  readonly sandboxes: SandboxContext;
  readonly images: ImageStore;
  readonly builds: Builds<Image>;
  readonly retention: RowRetention;
  /** Runs after an unnamed image was built: the cache has grown. */
  readonly onBuilt: () => void;
}
