import { readdir, readFile } from "node:fs/promises";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { runCommand } from "#host/run-command.ts";
import { provideArtifact } from "#images/artifact.ts";

const repository = join(import.meta.dirname, "../../../..");

/** All that goes into the bundle. */
const sources = ["packages/guest-agent", "packages/wire/src/guest", "packages/wire/src/errors.ts", "package-lock.json"];

/** The guest agent as one JavaScript module, bundled again when any of its sources has changed. Returns its path. */
export async function provideAgentBundle(imagesDirectory: string, signal?: AbortSignal): Promise<string> {
  const { directory } = await provideArtifact({
    kind: "agent-bundle",
    imagesDirectory,
    inputs: await hashOfSources(),
    needMib: 16,
    signal,
    async build(target) {
      await runCommand(
        "bundle the guest agent",
        [process.execPath, join(repository, "node_modules/.bin/tsdown"), "--out-dir", target],
        { cwd: join(repository, "packages/guest-agent"), ...(signal === undefined ? {} : { signal }) },
      );
      return {};
    },
  });
  return join(directory, "agent.mjs");
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
    if (name === "dist" || name === "node_modules" || name.includes(".test.")) continue;
    await addTo(hash, join(path, name));
  }
}
