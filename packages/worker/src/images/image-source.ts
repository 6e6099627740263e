import { fileURLToPath } from "node:url";
import type { Log } from "#host/log.ts";

export interface ImageSourceOptions {
  /** Where built images are kept; made when it is missing. Every directory on the way must be open to QEMU's user. */
  readonly imagesDirectory: string;
  /** Where packages come from while building. An image itself always points at deb.debian.org. */
  readonly debianMirror?: string;
  readonly debianSecurityMirror?: string;
  /** Where the recipes and guest scripts are. */
  readonly recipesDirectory?: string;
  /** Receives a warning when something damaged is built again. */
  readonly log?: Log;
}

export type ImageSource = Required<Omit<ImageSourceOptions, "log">> & Pick<ImageSourceOptions, "log">;

/** The options with every default filled in. */
export function imageSource(options: ImageSourceOptions): ImageSource {
  return {
    debianMirror: "http://deb.debian.org/debian",
    debianSecurityMirror: "http://deb.debian.org/debian-security",
    recipesDirectory: fileURLToPath(new URL("../../../../images", import.meta.url)),
    ...options,
  };
}

/** Where artifacts of this source are kept and who hears of damaged ones. */
export function artifactPlace({ imagesDirectory, log }: ImageSource): {
  readonly imagesDirectory: string;
  readonly log: Log | undefined;
} {
  return { imagesDirectory, log };
}
