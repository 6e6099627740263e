// Builds what a release publishes. Usage: node tools/package/build.ts KIND DIRECTORY
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";
import { version } from "../../packages/wire/src/version.ts";
import { buildDeb } from "./build-deb.ts";
import { installScript } from "./install-script.ts";
import { sourceDate } from "./source-date.ts";
import { stagePackage, stageWithNode } from "./stage-package.ts";

const usage = `usage: node tools/package/build.ts npm DIRECTORY           the package for 'npm publish'
       node tools/package/build.ts archive DIRECTORY       program and Node, to unpack anywhere
       node tools/package/build.ts deb DIRECTORY           the same as a package of Debian and Ubuntu
       node tools/package/build.ts release DIRECTORY URL   all three, install.sh and SHA256SUMS, to serve at URL

Prints the path of each file. OPENSANDBOX_DEB_COMPRESSION=none saves a minute. Equal sources make equal files: SOURCE_DATE_EPOCH, or the last commit, dates them.
`;

const archiveName = `opensandbox-${version}-linux-x64.tar.gz`;

const [kind, directory, url] = process.argv.slice(2);
process.exitCode = await main();

async function main(): Promise<number> {
  const builders = { npm: [buildNpm], archive: [buildArchive], deb: [deb], release: [buildNpm, buildArchive, deb] };
  const isKind = kind !== undefined && Object.hasOwn(builders, kind);
  if (!isKind || directory === undefined || (kind === "release") !== (url !== undefined)) {
    process.stderr.write(usage);
    return 2;
  }
  const target = resolve(directory);
  await mkdir(target, { recursive: true });
  for (const build of builders[kind as keyof typeof builders]) print(await build(target));
  if (url !== undefined) for (const file of await finishRelease(target, url)) print(file);
  return 0;
}

async function buildNpm(target: string): Promise<string> {
  return await staged(stagePackage, async (content) => {
    const packed = ["npm", "pack", "--silent", "--pack-destination", target] as const;
    return join(target, (await runCommand("pack", packed, { cwd: content })).trim());
  });
}

async function buildArchive(target: string): Promise<string> {
  const file = join(target, archiveName);
  await staged(stageWithNode, async (content) => {
    const uniform = ["--sort=name", `--mtime=@${await sourceDate()}`, "--owner=0", "--group=0", "--numeric-owner"];
    const tar = ["tar", "--create", "--use-compress-program=gzip -n", `--file=${file}`, ...uniform] as const;
    await runCommand("pack", [...tar, `--transform=s,^\\.,opensandbox-${version},rSh`, "-C", content, "."]);
  });
  return file;
}

async function deb(target: string): Promise<string> {
  const compression = process.env["OPENSANDBOX_DEB_COMPRESSION"] === "none" ? "none" : "xz";
  return await staged(stageWithNode, async (content) => await buildDeb(content, target, compression));
}

/** The installer, which knows the hash of its archive, and the hashes of all files. */
async function finishRelease(target: string, url: string): Promise<readonly string[]> {
  const names = [`opensandbox-${version}.tgz`, archiveName, `opensandbox_${version}_amd64.deb`];
  const script = join(target, "install.sh");
  const source = await readFile(join(import.meta.dirname, "install.sh"), "utf8");
  const archive = { url, version, archive: archiveName, sha256: await sha256Of(join(target, archiveName)) };
  await writeFile(script, installScript(source, archive), { mode: 0o755 });
  const sums = join(target, "SHA256SUMS");
  const lines = await Promise.all(
    [...names, basename(script)].map(async (name) => `${await sha256Of(join(target, name))}  ${name}\n`),
  );
  await writeFile(sums, lines.join(""));
  return [script, sums];
}

async function staged<T>(stage: (target: string) => Promise<void>, use: (content: string) => Promise<T>): Promise<T> {
  const content = await mkdtemp(join(tmpdir(), "osb-package-"));
  try {
    await stage(content);
    return await use(content);
  } finally {
    await rm(content, { recursive: true });
  }
}

async function sha256Of(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

function print(file: string): void {
  process.stdout.write(`${file}\n`);
}
