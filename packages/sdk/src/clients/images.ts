import { SandboxError } from "@opensandbox/wire/errors.ts";
import { createSnapshot, deleteImage, getSnapshot, listImages, pruneImages } from "@opensandbox/wire/public/images.ts";
import type { ImageManifest } from "@opensandbox/wire/public/images.ts";
import { readEvents } from "#transport/events.ts";
import { errorFromReply, replyOf } from "#transport/http.ts";
import type { HttpClient } from "#transport/http.ts";

/** One step of an image's build. Steps run in order, in a machine. */
export type ImageStep =
  | { readonly type: "apt_install" | "pip_install"; readonly args: { readonly packages: readonly string[] } }
  | { readonly type: "run"; readonly args: { readonly commands: readonly string[] } }
  | { readonly type: "env"; readonly args: { readonly vars: Readonly<Record<string, string>> } }
  | { readonly type: "workdir"; readonly args: { readonly path: string } }
  | {
      readonly type: "add_file";
      readonly args: { readonly path: string; readonly content: string; readonly encoding?: "base64" | "utf-8" };
    };

/** The steps that build an image. */
export interface ImageRecipe {
  /** The image to start from. Default: `base`. */
  readonly base?: string;
  readonly steps: readonly ImageStep[];
  /** Memory of the build machine, in MiB. */
  readonly builderMemoryMib?: number;
}

/** An image of your own. Create sandboxes from it with `snapshot: name`. */
export interface BuiltImage {
  readonly id: string;
  /** Empty: built for a single create. */
  readonly name: string;
  readonly status: "building" | "ready" | "failed";
  /** The checkpoint behind the image. Empty until the image is ready. */
  readonly checkpointId: string;
  /** Why the build failed. */
  readonly error?: string;
  /** Disk space in bytes that no other snapshot shares. 0 until the image is ready. */
  readonly sizeBytes: number;
  readonly createdAt: string;
  readonly lastUsedAt: string;
}

export interface ImagesClient {
  /** Builds an image and names it. Resolves when it is ready. The same steps are built only once. */
  build(
    name: string,
    recipe: ImageRecipe,
    options?: { readonly onLog?: (line: string) => void },
    signal?: AbortSignal,
  ): Promise<BuiltImage>;
  get(name: string, signal?: AbortSignal): Promise<BuiltImage>;
  list(signal?: AbortSignal): Promise<readonly BuiltImage[]>;
  /** Deletes an image, by name or id. Sandboxes created from it are unaffected. */
  delete(name: string, signal?: AbortSignal): Promise<void>;
  /**
   * Removes images without a name that nothing used for a time, and that no sandbox or checkpoint needs. The same steps
   * build them again.
   */
  prune(
    options: {
      readonly unusedForSeconds: number;
      /** Removes nothing, and returns what would be removed. */
      readonly dryRun?: boolean;
    },
    signal?: AbortSignal,
  ): Promise<PrunedImages>;
}

export interface PrunedImages {
  readonly removed: readonly BuiltImage[];
  /** Disk space in bytes of the removed images that no other snapshot shares. */
  readonly sizeBytes: number;
}

export function imagesClient(http: HttpClient): ImagesClient {
  return {
    async build(name, { base = "base", steps, builderMemoryMib }, { onLog } = {}, signal) {
      const image = {
        base,
        steps,
        ...(builderMemoryMib === undefined ? {} : { builderMemoryMB: builderMemoryMib }),
      } as ImageManifest;
      const headers: Record<string, string> = onLog === undefined ? {} : { Accept: "text/event-stream" };
      const response = await http.send(createSnapshot, { body: { name, image }, headers }, signal);
      for await (const { event, data } of readEvents(response, signal)) {
        if (event === "result") return imageOf(replyOf(createSnapshot, data));
        if (event === "error") throw errorFromReply(500, data);
        if (event === "build_log") onLog?.((JSON.parse(data) as { readonly message: string }).message);
      }
      throw new SandboxError(
        "unavailable",
        `the connection to the server ended before image ${name} was built: run the same build again`,
      );
    },
    async get(name, signal) {
      return imageOf(await http.call(getSnapshot, { parameters: { name } }, signal));
    },
    async list(signal) {
      return (await http.call(listImages, {}, signal)).map(imageOf);
    },
    async delete(name, signal) {
      await http.call(deleteImage, { parameters: { name } }, signal);
    },
    async prune({ unusedForSeconds, dryRun = false }, signal) {
      const { removed, sizeBytes } = await http.call(pruneImages, { body: { unusedForSeconds, dryRun } }, signal);
      return { removed: removed.map(imageOf), sizeBytes };
    },
  };
}

function imageOf(reply: {
  readonly id: string;
  readonly name: string;
  readonly status: BuiltImage["status"];
  readonly checkpointId: string;
  readonly error?: string | undefined;
  readonly sizeBytes: number;
  readonly createdAt: string;
  readonly lastUsedAt: string;
}): BuiltImage {
  const { id, name, status, checkpointId, error, sizeBytes, createdAt, lastUsedAt } = reply;
  const known = { id, name, status, checkpointId, sizeBytes, createdAt, lastUsedAt };
  return error === undefined ? known : { ...known, error };
}
