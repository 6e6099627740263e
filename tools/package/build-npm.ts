// Builds the published package. Usage: node tools/package/build-npm.ts DIRECTORY, then `npm publish` of the printed file.
import { spawnSync } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { stagePackage } from "./stage-package.ts";

const [target] = process.argv.slice(2);
if (target === undefined) {
  process.stderr.write("usage: node tools/package/build-npm.ts DIRECTORY\n");
  process.exit(2);
}
const directory = resolve(target);
await mkdir(directory, { recursive: true });
const staged = await mkdtemp(join(tmpdir(), "osb-package-"));
try {
  await stagePackage(staged);
  const packed = spawnSync("npm", ["pack", "--silent", "--pack-destination", directory], {
    cwd: staged,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (packed.status !== 0) throw new Error(`npm pack exited with ${packed.status ?? packed.signal}`);
  process.stdout.write(`${join(directory, packed.stdout.trim())}\n`);
} finally {
  await rm(staged, { recursive: true });
}
