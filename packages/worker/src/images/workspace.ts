import { chmod, cp, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { hashOfFiles, provideArtifact } from "#images/artifact.ts";
import { makeExt4 } from "#images/ext4.ts";
import type { BuildOptions } from "#images/image-store.ts";
import type { ImageSource } from "#images/image-source.ts";

/** Of the user `sandbox` in every image. */
const owner = "1000:1000";

/**
 * An empty workspace of `diskMib` MiB, built when it is not there, which takes a second: a sparse ext4 image that holds
 * the user's start-up files. Path of the image.
 */
export async function provideWorkspace(
  source: ImageSource,
  diskMib: number,
  { signal }: BuildOptions,
): Promise<string> {
  const skeleton = join(source.recipesDirectory, "skel");
  const { directory } = await provideArtifact({
    kind: "workspace",
    imagesDirectory: source.imagesDirectory,
    inputs: { diskMib, owner, skeleton: await hashOfFiles(skeleton) },
    needMib: 64,
    signal,
    build: async (target) => {
      const content = join(target, "content");
    },
  });
  return join(directory, "workspace.ext4");
}
