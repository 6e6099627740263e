import { chmod, copyFile, cp, mkdir, readdir, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import type { AgentBundles } from "#images/agent-bundle.ts";
import { hashOfFile, provideArtifact } from "#images/artifact.ts";
import { fixedTime, makeExt4 } from "#images/ext4.ts";
import { artifactPlace, type ImageSource } from "#images/image-source.ts";
import type { BuildOptions } from "#images/progress.ts";
import type { Kit } from "#images/kit.ts";
import { removeBuild } from "#images/privileged.ts";

export interface AgentDiskRequest {
  readonly kit: Kit;
  /** The Node executable that runs the agent in the guest. */
  readonly nodeBinary: string;
  readonly bundles: AgentBundles;
}

/**
 * Builds the agent disk when it is missing, which takes a few seconds, and returns the path of its image. Every guest
 * mounts it read-only at /run/opensandbox. It holds init, the guest agent, the agent wrapper, the SFTP server and
 * everything that they need, so images contain nothing of ours.
 */
export async function provideAgentDisk(
  source: ImageSource,
  { kit, nodeBinary, bundles }: AgentDiskRequest,
  { signal }: BuildOptions,
): Promise<string> {
  const init = join(source.recipesDirectory, "agent", "init");
  const script = join(source.recipesDirectory, "agent", "claude-agent-wrapper");
  const sftpScript = join(source.recipesDirectory, "agent", "sftp-server");
  const systemctl = join(source.recipesDirectory, "agent", "systemctl");
  const interpreter = join(source.recipesDirectory, "agent", "code-interpreter");
  const ingredients = [nodeBinary, bundles.guestAgent, init, bundles.agentWrapper, script, systemctl, interpreter];
  const [node, agent, initHash, wrapper, scriptHash, systemctlHash, interpreterHash] = await Promise.all(
    ingredients.map(hashOfFile),
  );
  const sftp = (await Promise.all([bundles.sftpServer, sftpScript].map(hashOfFile))).join(" ");
  const { directory } = await provideArtifact({
    kind: "agent",
    ...artifactPlace(source),
    inputs: {
      ...{ kit: kit.id, node, agent, init: initHash, wrapper, script: scriptHash, sftp },
      ...{ systemctl: systemctlHash, interpreter: interpreterHash },
    },
    needMib: 500,
    signal,
    build: async (target) => {
      const content = join(target, "content");
      await mkdir(join(content, "bin"), { recursive: true });
      await cp(kit.libraries, join(content, "lib"), { recursive: true });
      const files = [
        [init, "init"],
        [kit.busybox, "bin/busybox"],
        [nodeBinary, "bin/node"],
        [script, "bin/claude-agent-wrapper"],
        [sftpScript, "bin/sftp-server"],
        [systemctl, "bin/systemctl"],
        [interpreter, "bin/code-interpreter"],
        [bundles.guestAgent, "agent.mjs"],
        [bundles.agentWrapper, "claude-agent-wrapper.mjs"],
        [bundles.sftpServer, "sftp-server.mjs"],
      ] as const;
      for (const [from, to] of files) await copyFile(from, join(content, to));
      const sizeMib = await makeUniform(content);
      await makeExt4({
        file: join(target, "agent.ext4"),
        ...{ content, sizeMib, label: "agent", uuid: "b3e7a0c4-2f61-4f0e-9a57-6d1c52b0e003", journalMib: 0 },
        // The disk has a handful of files and never grows.
        ...{ options: ["-N", "64"], features: ["^resize_inode"] },
        ...(signal === undefined ? {} : { signal }),
      });
      await removeBuild(content);
      return { agent: agent ?? "" };
    },
  });
  return join(directory, "agent.ext4");
}

/** Sets modes and times that do not depend on the files' origin. Returns the size in MiB that a disk for them needs. */
async function makeUniform(content: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(content, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const program = !entry.isFile() || entry.name === "init" || entry.parentPath !== content;
    await chmod(path, program ? 0o755 : 0o644);
    bytes += (await stat(path)).size;
    await utimes(path, fixedTime, fixedTime);
  }
  // Block maps and the file system's own tables take 2% and 2 MiB.
  return Math.ceil((bytes * 1.02) / 2 ** 20) + 2;
}
