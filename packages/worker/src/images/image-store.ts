import {
  formatImageReference,
  isImageReference,
  parseImageReference,
} from "@opensandbox/wire/worker/image-reference.ts";
import type { AgentBundles } from "#images/agent-bundle.ts";
import { provideAgentDisk } from "#images/agent-disk.ts";
import { artifactsOf, removeArtifact } from "#images/artifact.ts";
import { provideInitramfs } from "#images/initramfs.ts";
import { provideKit } from "#images/kit.ts";
import { type ImageSource, imageSource, type ImageSourceOptions } from "#images/image-source.ts";
import type { BuildOptions } from "#images/progress.ts";
import { importedRootfsMib, type OciOptions, provideOciRootfs } from "#images/oci/oci-rootfs.ts";
import { readRecipe, recipeNames } from "#images/recipe.ts";
import { provideRootfs } from "#images/rootfs.ts";
import { provideWorkspace } from "#images/workspace.ts";

/** The files that a machine boots: paths of read-only files, valid until the image is removed. */
export interface BootImage {
  readonly name: string;
  /** Changes with every input of the rootfs. */
  readonly hash: string;
  /** A raw sparse ext4 file system. A machine writes to a copy-on-write layer over it. */
  readonly rootfs: string;
  /** The size of the rootfs in the guest. On the host it takes a fraction of that. */
  readonly rootfsBytes: number;
  readonly kernel: string;
  readonly initramfs: string;
  readonly kernelVersion: string;
}

/** The disks that every machine has in addition to its image: raw read-only ext4 files. */
export interface Platform {
  /** Holds the guest agent with its runtime and libraries; mounted at /run/opensandbox. */
  readonly agentDisk: string;
  /** An empty workspace. A machine writes to a copy-on-write layer over it. */
  readonly workspace: string;
}

export interface PlatformRequest {
  /** The Node executable that runs the agent in the guest. */
  readonly nodeBinary: string;
  readonly bundles: AgentBundles;
  readonly workspaceMib: number;
}

export interface ImageEntry {
  readonly name: string;
  /** The newest build; absent until the image has been built. */
  readonly build?: {
    readonly hash: string;
    readonly createdAt: string;
    readonly kernelVersion: string;
    readonly rootfsBytes: number;
    /** Disk space of all builds of the image. */
    readonly allocatedBytes: number;
  };
}

/**
 * The images of this host. An image is built at its first use and cached by the hash of its inputs. Processes that ask
 * at the same time share one build.
 */
export class ImageStore {
  readonly #source: ImageSource;

  constructor(options: ImageSourceOptions) {
    this.#source = imageSource(options);
  }

  /** Names of all images that {@link provide} can build, built or not. */
  async names(): Promise<readonly string[]> {
    return await recipeNames(this.#source);
  }

  /**
   * The image `name`, built or pulled when it is missing, which takes minutes. A name with a slash, a colon or an at sign
   * is an image of a registry.
   *
   * @throws `not_found` for an unknown name; `permission_denied` for a registry that is not allowed here;
   *   `invalid_argument` for an image that cannot be used; `unavailable` when a tool, the network or disk space is missing
   */
  async provide(name: string, options: OciOptions = {}): Promise<BootImage> {
    const recipe = isImageReference(name) ? undefined : await readRecipe(this.#source, name);
    const kit = await provideKit(this.#source, options);
    const initramfs = await provideInitramfs(this.#source, kit, options);
    const rootfs =
      recipe === undefined
        ? await provideOciRootfs(this.#source, name, kit, options)
        : await provideRootfs(this.#source, recipe, kit, options);
    return {
      name: recipe?.name ?? formatImageReference(parseImageReference(name)),
      hash: rootfs.hash,
      rootfs: rootfs.path,
      rootfsBytes: (recipe?.rootfsMib ?? importedRootfsMib) * 2 ** 20,
      kernel: kit.kernel,
      initramfs,
      kernelVersion: kit.kernelVersion,
    };
  }

  /** The agent disk and the empty workspace, built when they are missing, which takes seconds. */
  async providePlatform(request: PlatformRequest, options: BuildOptions = {}): Promise<Platform> {
    const kit = await provideKit(this.#source, options);
    const agentDisk = await provideAgentDisk(this.#source, { ...request, kit }, options);
    const workspace = await provideWorkspace(this.#source, request.workspaceMib, options);
    return { agentDisk, workspace };
  }

  /** Every image that has a recipe or a build, sorted by name. */
  async list(): Promise<readonly ImageEntry[]> {
    const builds = Object.groupBy(
      await artifactsOf(this.#source.imagesDirectory, "image"),
      ({ facts }) => facts.name ?? "",
    );
    const names = new Set([...(await this.names()), ...Object.keys(builds)]);
    return [...names].toSorted().map((name) => {
      const all = builds[name] ?? [];
      const newest = all.toSorted((a, b) => a.createdAt.localeCompare(b.createdAt)).at(-1);
      if (newest === undefined) return { name };
      return {
        name,
        build: {
          hash: newest.hash,
          createdAt: newest.createdAt,
          kernelVersion: newest.facts.kernelVersion ?? "",
          rootfsBytes: newest.files["rootfs.ext4"]?.bytes ?? 0,
          allocatedBytes: all
            .flatMap(({ files }) => Object.values(files))
            .reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0),
        },
      };
    });
  }

  /**
   * Removes every build of `name`. The recipe stays, so the next {@link provide} builds the image again. A running
   * machine keeps its open files, but its disks may not start another one: the caller makes sure that none has to.
   *
   * @returns the number of builds that it removed
   * @throws `not_found` for a name with neither a recipe nor a build
   */
  async remove(name: string): Promise<number> {
    const directory = this.#source.imagesDirectory;
    const stored = isImageReference(name) ? formatImageReference(parseImageReference(name)) : name;
    const builds = (await artifactsOf(directory, "image")).filter(({ facts }) => facts.name === stored);
    if (builds.length === 0) await readRecipe(this.#source, name);
    for (const build of builds) await removeArtifact(build);
    return builds.length;
  }
}
