import { chmod, cp, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";
import { commands } from "../../packages/cli/src/commands/commands.ts";
import { scriptFor } from "../../packages/cli/src/commands/completion/scripts.ts";
import { roles } from "../../packages/cli/src/commands/host/options.ts";
import { serviceUnit, unitNames } from "../../packages/cli/src/commands/host/units.ts";
import { version } from "../../packages/wire/src/version.ts";
import { makeUniform } from "./make-uniform.ts";
import { manPage } from "./man-page.ts";
import { sourceDate } from "./source-date.ts";

const program = "usr/lib/opensandbox";

/**
 * Builds the package of Debian and Ubuntu: the program with its Node, units, completion and manual page.
 * @param content the staged program, which is moved away
 * @returns the path of the file
 */
export async function buildDeb(content: string, directory: string, compression: "xz" | "none" = "xz"): Promise<string> {
  const date = await sourceDate();
  const tree = `${content}.deb`;
  try {
    await mkdir(join(tree, dirname(program)), { recursive: true });
    await rename(content, join(tree, program));
    await mkdir(content);
    await addSystemFiles(tree, Number(date));
    await removeDocuments(join(tree, program));
    await addControlFiles(tree);
    await makeUniform(tree);
    const file = join(directory, `opensandbox_${version}_amd64.deb`);
    // A second thread would change how xz cuts its blocks.
    const options = ["--root-owner-group", `-Z${compression}`, "-z2", "--threads-max=1"];
    const pack = ["dpkg-deb", ...options, "--build", tree, file] as const;
    await runCommand("build the Debian package", pack, { env: { SOURCE_DATE_EPOCH: date } });
    return file;
  } finally {
    await rm(tree, { recursive: true, force: true });
  }
}

async function addSystemFiles(tree: string, date: number): Promise<void> {
  const add = async (path: string, text: string | Buffer): Promise<void> => {
    await mkdir(join(tree, dirname(path)), { recursive: true });
    await writeFile(join(tree, path), text, { mode: 0o644 });
  };
  const link = async (path: string, target: string): Promise<void> => {
    await mkdir(join(tree, dirname(path)), { recursive: true });
    await symlink(target, join(tree, path));
  };
  await link("usr/bin/osb", "../lib/opensandbox/opensandbox");
  await link("usr/bin/opensandbox", "../lib/opensandbox/opensandbox");
  for (const role of roles) {
    const unit = serviceUnit({ role, launcher: "/usr/bin/osb", author: "the package opensandbox" });
    await add(`usr/lib/systemd/system/${unitNames[role]}`, unit);
  }
  await add("usr/share/bash-completion/completions/osb", `${scriptFor("bash", "osb")}\n`);
  await link("usr/share/bash-completion/completions/opensandbox", "osb");
  // The first completion runs the file as the function `_osb`, which the script then defines.
  await add(
    "usr/share/zsh/vendor-completions/_osb",
    `#compdef osb opensandbox\n${scriptFor("zsh", "osb")}\n_osb "$@"\n`,
  );
  await add("usr/share/fish/vendor_completions.d/osb.fish", `${scriptFor("fish", "osb")}\n`);
  // Level 9 without a date, as Debian's policy wants.
  const compressed = (text: string): Buffer => gzipSync(text, { level: 9 });
  await add("usr/share/man/man1/osb.1.gz", compressed(manPage(commands, { version, date })));
  await link("usr/share/man/man1/opensandbox.1.gz", "osb.1.gz");
  await add(
    "usr/share/doc/opensandbox/copyright",
    await readFile(join(import.meta.dirname, "debian/copyright"), "utf8"),
  );
  await add("usr/share/doc/opensandbox/changelog.gz", compressed(changelog(date)));
  await add(
    "usr/share/lintian/overrides/opensandbox",
    await readFile(join(import.meta.dirname, "debian/overrides"), "utf8"),
  );
}

function changelog(date: number): string {
  const day = new Date(date * 1000).toUTCString().replace("GMT", "+0000");
  return `opensandbox (${version}) unstable; urgency=medium

  * Release ${version}.

 -- ${maintainer}  ${day}
`;
}

const maintainer = "OpenSandbox <packages@opensandbox.invalid>";

/** Licences are in the copyright file, and manuals of libraries serve nobody here. */
async function removeDocuments(directory: string): Promise<void> {
  for (const path of ["README.md", "LICENSE"]) await rm(join(directory, path));
  for (const entry of await readdir(join(directory, "node_modules"), { recursive: true, withFileTypes: true })) {
    const needless = /^(readme|changelog|history|security|contributing|authors)\b/i.test(entry.name);
    if (entry.isFile() && needless) await rm(join(entry.parentPath, entry.name));
  }
}

async function addControlFiles(tree: string): Promise<void> {
  const target = join(tree, "DEBIAN");
  const sums = "find . -type f -printf '%P\\0' | LC_ALL=C sort --zero-terminated | xargs --null md5sum";
  const md5sums = await runCommand("list the files", ["sh", "-c", sums], { cwd: tree });
  const size = ["du", "--summarize", "--apparent-size", "--block-size=1K", tree] as const;
  const [kib = ""] = (await runCommand("measure the package", size)).split("\t");
  const control = (await readFile(join(import.meta.dirname, "debian/control"), "utf8"))
    .replace("@VERSION@", version)
    .replace("@MAINTAINER@", maintainer)
    .replace("@SIZE@", kib);
  await mkdir(target);
  await writeFile(join(target, "control"), control);
  await writeFile(join(target, "md5sums"), md5sums);
  for (const script of ["postinst", "prerm", "postrm"]) {
    await cp(join(import.meta.dirname, "debian", script), join(target, script));
    await chmod(join(target, script), 0o755);
  }
}
