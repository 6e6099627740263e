import type { AgentBundles } from "#images/agent-bundle.ts";
import { provideAgentDisk } from "#images/agent-disk.ts";
import { artifactsOf, removeArtifact } from "#images/artifact.ts";
import { provideInitramfs } from "#images/initramfs.ts";
import { provideKit } from "#images/kit.ts";
import { type ImageSource, imageSource, type ImageSourceOptions } from "#images/image-source.ts";
import type { BuildOptions } from "#images/progress.ts";
import { readRecipe, recipeNames } from "#images/recipe.ts";
import { provideRootfs } from "#images/rootfs.ts";
import { provideWorkspace } from "#images/workspace.ts";

/** What a machine boots: paths of read-only files that stay valid until the image is removed. */
export interface BootImage {
  readonly name: string;
  /** Changes when anything that went into the rootfs changes. */
  readonly hash: string;
  /** A raw sparse ext4 file system; a machine gets a copy-on-write layer over it. */
  readonly rootfs: string;
  /** Its size as the guest sees it; what it takes on the host is a fraction of this. */
  readonly rootfsBytes: number;
  readonly kernel: string;
  readonly initramfs: string;
  readonly kernelVersion: string;
}

/** What every machine needs beside its image: raw read-only ext4 files. */
export interface Platform {
  /** The guest agent with its runtime and libraries, mounted at /run/opensandbox. */
  readonly agentDisk: string;
  /** An empty workspace; a machine gets a copy-on-write layer over it. */
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
  /** Absent until the image has been built. The newest build when there are several. */
  readonly build?: {
    readonly hash: string;
    readonly createdAt: string;
    readonly kernelVersion: string;
    readonly rootfsBytes: number;
    /** What all builds of the image take on the host's disk. */
    readonly allocatedBytes: number;
  };
}

/**
 * The images of this host: built when first asked for, cached by the hash of all that goes into them, and built once
 * when several processes ask at the same time.
 */
export class ImageStore {
  readonly #source: ImageSource;

  constructor(options: ImageSourceOptions) {
    this.#source = imageSource(options);
  }

  /** Names of the images that {@link provide} knows, built or not. */
  async names(): Promise<readonly string[]> {
    return await recipeNames(this.#source);
  }

  /**
   * The image `name`, built if need be, which takes minutes the first time.
   *
   * @throws `not_found` for an unknown name; `unavailable` when a tool, the network or disk space is missing
   */
  async provide(name: string, options: BuildOptions = {}): Promise<BootImage> {
    const recipe = await readRecipe(this.#source, name);
    const kit = await provideKit(this.#source, options);
    const initramfs = await provideInitramfs(this.#source, kit, options);
    const rootfs = await provideRootfs(this.#source, recipe, kit, options);
    return {
      name,
      hash: rootfs.hash,
      rootfs: rootfs.path,
      rootfsBytes: recipe.rootfsMib * 2 ** 20,
      kernel: kit.kernel,
      initramfs,
      kernelVersion: kit.kernelVersion,
    };
  }

  /** The agent disk and the empty workspace, built if need be, which takes seconds. */
  async providePlatform(request: PlatformRequest, options: BuildOptions = {}): Promise<Platform> {
    const kit = await provideKit(this.#source, options);
    const agentDisk = await provideAgentDisk(this.#source, { ...request, kit }, options);
    const workspace = await provideWorkspace(this.#source, request.workspaceMib, options);
    return { agentDisk, workspace };
  }

  /** Every image that can be built or has been built, by name. */
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
   * Removes every build of `name`; the recipe stays, so the next {@link provide} builds it anew. A running machine
   * keeps its open files, but nothing can be started from its disks again: whoever calls this knows that none needs to.
   *
   * @returns how many builds there were
   * @throws `not_found` for a name with neither a recipe nor a build
   */
  async remove(name: string): Promise<number> {
    const directory = this.#source.imagesDirectory;
    const builds = (await artifactsOf(directory, "image")).filter(({ facts }) => facts.name === name);
    if (builds.length === 0) await readRecipe(this.#source, name);
    for (const build of builds) await removeArtifact(build);
    return builds.length;
  }
}
