import { existsSync } from "node:fs";
import { cp, readdir, readFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { runCommand } from "#host/run-command.ts";
import { type ArtifactRequest, provideArtifact } from "#images/artifact.ts";

const repository = join(import.meta.dirname, "../../../..");

/** The bundles of an installed package, which has no sources. A checkout lacks this directory. */
const builtDirectory = "agent-bundles";

/** Everything that goes into the bundles. */
const sources = existsSync(join(repository, builtDirectory))
  ? [builtDirectory]
  : [
      "packages/guest-agent",
      "packages/agent-wrapper",
      "packages/wire/src/guest",
      "packages/wire/src/errors.ts",
      "packages/wire/src/version.ts",
      "package-lock.json",
    ];

/** Paths of the programs that the agent disk's runtime runs in guests, each one JavaScript module. */
export interface AgentBundles {
  readonly guestAgent: string;
  /** The program of agent sessions. */
  readonly agentWrapper: string;
  /** The program that serves SFTP to clients of the SSH gateway. */
  readonly sftpServer: string;
}

export interface BundleOptions extends Pick<ArtifactRequest, "log" | "checks"> {
  readonly signal?: AbortSignal;
}

/** The bundles, built when any of their sources has changed. An installed package contains them. */
export async function provideAgentBundles(
  imagesDirectory: string,
  { signal, log, checks }: BundleOptions = {},
): Promise<AgentBundles> {
  const { directory } = await provideArtifact({
    kind: "agent-bundle",
    ...{ imagesDirectory, log, checks },
    inputs: await hashOfSources(),
    needMib: 16,
    signal,
    async build(target) {
      const built = join(repository, builtDirectory);
      await (existsSync(built) ? cp(built, target, { recursive: true }) : buildAgentBundles(target, signal));
      return {};
    },
  });
  return {
    guestAgent: join(directory, "agent.mjs"),
    agentWrapper: join(directory, "claude-agent-wrapper.mjs"),
    sftpServer: join(directory, "sftp-server.mjs"),
  };
}

/** Builds all bundles from the sources of this checkout into a directory. */
export async function buildAgentBundles(target: string, signal?: AbortSignal): Promise<void> {
  await bundle("packages/guest-agent", target, signal);
  await bundle("packages/agent-wrapper", target, signal);
}

async function bundle(from: string, target: string, signal: AbortSignal | undefined): Promise<void> {
  await runCommand(
    `bundle ${from}`,
    [process.execPath, join(repository, "node_modules/.bin/tsdown"), "--out-dir", target],
    { cwd: join(repository, from), ...(signal === undefined ? {} : { signal }) },
  );
}

async function hashOfSources(): Promise<string> {
  const hash = createHash("sha256");
  for (const source of sources) await addTo(hash, source);
  return hash.digest("hex");
}

async function addTo(hash: ReturnType<typeof createHash>, path: string): Promise<void> {
  const entries = await readdir(join(repository, path), { withFileTypes: true }).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code === "ENOTDIR") return undefined;
      throw error;
    },
  );
  if (entries === undefined) {
    hash.update(`${path}\0`).update(await readFile(join(repository, path)));
    return;
  }
  for (const { name } of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
    if (name === "dist" || name === "node_modules" || name === "testing" || name.includes(".test.")) continue;
    await addTo(hash, join(path, name));
  }
}
