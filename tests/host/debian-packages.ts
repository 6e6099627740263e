import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { version } from "@opensandbox/wire/version.ts";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";

const root = resolve(import.meta.dirname, "../..");
const nextVersion = "99.0.0";

/** Files for a host that installs this version and upgrades to a next one. Their names are those in /work. */
export async function buildPackages(scratch: string, signal: AbortSignal): Promise<Readonly<Record<string, string>>> {
  const node = [process.execPath, "--disable-warning=ExperimentalWarning"] as const;
  const build = [...node, join(root, "tools/package/build.ts"), "deb", join(scratch, "built")] as const;
  const env = { OPENSANDBOX_DEB_COMPRESSION: "none" };
  const deb = (await runCommand("build the package", build, { env, signal })).trim();
  const versions = join(scratch, "versions");
  await writeFile(versions, `${version} ${nextVersion}\n`);
  return { "opensandbox.deb": deb, "next.deb": await withNextVersion(deb, scratch, signal), versions };
}

/** The same package with a higher version. */
async function withNextVersion(deb: string, scratch: string, signal: AbortSignal): Promise<string> {
  const tree = join(scratch, "next");
  await mkdir(tree);
  await runCommand("unpack the package", ["dpkg-deb", "--raw-extract", deb, tree], { signal });
  const program = "usr/lib/opensandbox";
  for (const path of ["DEBIAN/control", `${program}/package.json`, `${program}/packages/wire/src/version.js`]) {
    const text = await readFile(join(tree, path), "utf8");
    const changed = text.replaceAll(version, nextVersion);
    if (changed === text) throw new Error(`${path} does not name the version`);
    await writeFile(join(tree, path), changed);
  }
  const file = join(scratch, "next.deb");
  const pack = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, file] as const;
  await runCommand("build the next package", pack, { signal });
  return file;
}
