import { fileURLToPath } from "node:url";
import type { ContentChecks } from "#host/storage/content-checks.ts";
import type { Log } from "#host/log.ts";
import type { ArtifactRequest } from "#images/artifact.ts";
import type { RegistrySettings } from "#images/oci/registries.ts";

/** A kernel that the operator names instead of Debian's, for hosts on which Debian's does not boot. */
export interface NamedKernel {
  /** A vmlinux (an ELF file), or a bzImage whose payload is compressed with zstd. */
  readonly kernel: string;
  /** Its module tree, such as /usr/lib/modules/6.12.33-pvm. Absent: every driver of a guest is part of the kernel. */
  readonly modules?: string;
}

export interface ImageSourceOptions {
  /** The directory of built images, made when it is missing. QEMU's user must be able to pass through its parents. */
  readonly imagesDirectory: string;
  /** The source of packages during builds. Images themselves always name deb.debian.org. */
  readonly debianMirror?: string;
  readonly debianSecurityMirror?: string;
  /** The kernel of guests. Absent: Debian's. */
  readonly guestKernel?: NamedKernel;
  /** The directory of recipes and guest scripts. */
  readonly recipesDirectory?: string;
  /** The registries that images may be pulled from. Absent: none. */
  readonly registries?: RegistrySettings;
  /** The largest image that is pulled: the bytes of its uncompressed layers. */
  readonly maxImageBytes?: number;
  /** Receives a warning when something damaged is built again. */
  readonly log?: Log;
  /** Compares artifacts with their records when they are used. Absent: they are trusted. */
  readonly checks?: ContentChecks;
}

type Optional = "log" | "checks" | "guestKernel";
export type ImageSource = Required<Omit<ImageSourceOptions, Optional>> & Pick<ImageSourceOptions, Optional>;

/** The options with every default filled in. */
export function imageSource(options: ImageSourceOptions): ImageSource {
  return {
    debianMirror: "http://deb.debian.org/debian",
    debianSecurityMirror: "http://deb.debian.org/debian-security",
    registries: { allowed: [], mirrors: {} },
    maxImageBytes: 10 * 2 ** 30,
    recipesDirectory: fileURLToPath(new URL("../../../../images", import.meta.url)),
    ...options,
  };
}

/** The part of an artifact's request that is the same for all artifacts of a source. */
export function artifactPlace({
  imagesDirectory,
  log,
  checks,
}: ImageSource): Pick<ArtifactRequest, "imagesDirectory" | "log" | "checks"> {
  return { imagesDirectory, log, checks };
}
