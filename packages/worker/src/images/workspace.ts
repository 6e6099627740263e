import { chmod, copyFile, mkdir, readdir, utimes } from "node:fs/promises";
import { join } from "node:path";
import { hashOfFile, provideArtifact } from "#images/artifact.ts";
import { fixedTime, makeExt4 } from "#images/ext4.ts";
import { artifactPlace, type ImageSource } from "#images/image-source.ts";
import type { BuildOptions } from "#images/progress.ts";
import { removeBuild, runPrivileged, runTool } from "#images/privileged.ts";

/**
 * Block groups of 128 MiB whose metadata lies together: more than the largest workspace has. Growing the file system
 * then adds at most two sets of groups. With the usual 16 groups in a set it would take a hundred transactions.
 */
const groupsPerFlex = 4096;

/** The user `sandbox` of every image. */
const owner = "1000:1000";

/**
 * Builds an empty workspace of `diskMib` MiB when it is missing, which takes a second, and returns the path of its
 * image: a sparse ext4 file system that holds only the shell's start-up files.
 */
export async function provideWorkspace(
  source: ImageSource,
  diskMib: number,
  { signal }: BuildOptions,
): Promise<string> {
  const skeleton = join(source.recipesDirectory, "skel");
  const names = (await readdir(skeleton)).toSorted();
  const hashes = await Promise.all(names.map((name) => hashOfFile(join(skeleton, name))));
  const options = signal === undefined ? {} : { signal };
  const { directory } = await provideArtifact({
    kind: "workspace",
    ...artifactPlace(source),
    inputs: { diskMib, owner, names, hashes, groupsPerFlex },
    needMib: 64,
    signal,
    build: async (target) => {
      const content = join(target, "content");
      await mkdir(content);
      for (const name of names) {
        const file = join(content, name);
        await copyFile(join(skeleton, name), file);
        await chmod(file, 0o644);
        await utimes(file, fixedTime, fixedTime);
      }
      await chmod(content, 0o755);
      await runPrivileged("give the workspace to its user", ["chown", "-R", owner, content], options);
      const file = join(target, "workspace.ext4");
      await makeExt4({
        ...{ file, content, sizeMib: diskMib, label: "workspace", uuid: "b3e7a0c4-2f61-4f0e-9a57-6d1c52b0e002" },
        ...{ journalMib: 32, extended: [`root_owner=${owner}`], options: ["-G", `${groupsPerFlex}`], ...options },
      });
      // Users do not expect the directory lost+found, and fsck makes it when needed.
      await runTool("empty the workspace", ["debugfs", "-w", "-R", "rmdir /lost+found", file], options);
      await removeBuild(content);
      return { diskMib: `${diskMib}` };
    },
  });
  return join(directory, "workspace.ext4");
}
