import { createHash } from "node:crypto";
import { chmod, cp, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";
import { provideArtifact } from "../../packages/worker/src/images/artifact.ts";
import { imageSource } from "../../packages/worker/src/images/image-source.ts";
import { runPrivileged } from "../../packages/worker/src/images/privileged.ts";
import { readConfig } from "../../packages/server/src/config.ts";

const repository = resolve(import.meta.dirname, "../..");

/** A host on which a set-up has no package to install. */
const packages = [
  ...["systemd-sysv", "dbus", "udev", "libpam-systemd", "kmod", "procps"],
  ...["iproute2", "nftables", "e2fsprogs", "xfsprogs", "xz-utils", "libatomic1"],
  ...["debian-archive-keyring", "ca-certificates", "adduser", "openssl"],
];

const only = process.env["OPENSANDBOX_TEST_MACHINE"];

/** Distributions on which a set-up is tested in every run. Ubuntu's archive is not reached from everywhere. */
export const suites = [
  { suite: "trixie", name: "Debian trixie" },
  { suite: "bookworm", name: "Debian bookworm" },
  { suite: "noble", name: "Ubuntu noble" },
].filter(({ suite }) => (only === undefined ? suite !== "noble" : suite === only));

/** A host as an installer leaves it. */
export const cleanPackages = [
  ...["systemd-sysv", "dbus", "udev", "libpam-systemd", "kmod", "procps", "iproute2", "apt", "ca-certificates"],
];

/** Ubuntu's archive, and the keys that verify it, which a Debian host lacks. */
const ubuntu = {
  archive: "http://archive.ubuntu.com/ubuntu",
  keys: "pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb",
  sha256: "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8",
};

/** Programs that the launcher looks for and that a test with fake machines never starts. */
export const unused = {
  "qemu-img": "",
  mmdebstrap: "",
  newuidmap: "",
  "qemu-system-x86_64": "echo QEMU emulator version 10.0.0",
};

/** Programs that would change the kernel of the host below. */
const withoutEffect = { modprobe: 'for module; do :; done; [ -e "/sys/module/$module" ]', udevadm: "", sysctl: "" };

const phasesUnit = "[Unit]\nAfter=basic.target\n[Service]\nType=exec\nExecStart=/work/phases\n";

export interface PhasesOptions {
  /** The suite of Debian, or `noble`, which is Ubuntu 24.04. */
  readonly suite: string;
  /** The name of the script beside this file. */
  readonly script: string;
  /** Files that the script finds in /work, by name. */
  readonly files?: Readonly<Record<string, string>>;
  readonly scratch: string;
}

/** Boots a Debian with systemd, runs a script there over all its boots, and returns what it printed. */
export async function runPhases(options: PhasesOptions, signal: AbortSignal): Promise<string> {
  const { suite, script, files = {}, scratch } = options;
  const root = join(scratch, "root");
  await unpackHost({ suite, packages, root }, signal);
  await addPrograms(root, { ...unused, ...withoutEffect });
  const results = join(scratch, "results");
  await mkdir(results);
  await cp(join(import.meta.dirname, script), join(results, "phases"));
  for (const [name, file] of Object.entries(files)) await cp(file, join(results, name));
  await runCommand("boot the host", [join(import.meta.dirname, "boot"), root, results, repository], { signal });
  return await readFile(join(results, "out"), "utf8");
}

interface HostContent {
  readonly suite: string;
  readonly packages: readonly string[];
}

/** The host as an archive. A missing one is built, which takes some minutes. */
async function provideArchive({ suite, packages }: HostContent, signal: AbortSignal): Promise<string> {
  const { imagesDirectory } = readConfig(process.env);
  const { debianMirror } = imageSource({ imagesDirectory });
  const { directory } = await provideArtifact({
    kind: "systemd-host",
    imagesDirectory,
    inputs: { suite, packages },
    needMib: 1024,
    signal,
    build: async (target) => {
      const source =
        suite === "noble"
          ? `deb [signed-by=${await ubuntuKeyring(target, signal)}] ${ubuntu.archive} noble main universe`
          : debianMirror;
      await runPrivileged(
        "building the systemd host",
        [
          ...(["mmdebstrap", "--mode=root", "--format=tar", "--variant=minbase"] as const),
          ...["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"],
          ...["--dpkgopt=path-exclude=/usr/share/locale/*", `--include=${packages.join(",")}`],
          ...[suite, join(target, "root.tar"), source],
        ],
        { env: { TMPDIR: target, DEBIAN_FRONTEND: "noninteractive" }, signal },
      );
      return {};
    },
  });
  return join(directory, "root.tar");
}

async function ubuntuKeyring(target: string, signal: AbortSignal): Promise<string> {
  const url = `${ubuntu.archive}/${ubuntu.keys}`;
  const response = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(60_000)]) });
  if (!response.ok) throw new Error(`${url} answered with ${response.status}`);
  const content = Buffer.from(await response.arrayBuffer());
  const found = createHash("sha256").update(content).digest("hex");
  if (found !== ubuntu.sha256) throw new Error(`${url} has the SHA-256 ${found} instead of ${ubuntu.sha256}`);
  const [file, directory] = [join(target, "keys.deb"), join(target, "keys")];
  await writeFile(file, content);
  await runCommand("unpack Ubuntu's keys", ["dpkg-deb", "--extract", file, directory], { signal });
  return join(directory, "usr/share/keyrings/ubuntu-archive-keyring.gpg");
}

/** Unpacks a distribution whose systemd starts /work/phases. */
export async function unpackHost(
  { root, ...content }: HostContent & { readonly root: string },
  signal: AbortSignal,
): Promise<void> {
  await mkdir(root);
  const archive = await provideArchive(content, signal);
  const tar = ["tar", "--extract", "--preserve-permissions", `--file=${archive}`, "-C", root] as const;
  await runCommand("unpack the host", tar, { signal });
  const units = join(root, "etc/systemd/system");
  await mkdir(join(units, "multi-user.target.wants"), { recursive: true });
  await writeFile(join(units, "phases.service"), phasesUnit);
  await symlink("../phases.service", join(units, "multi-user.target.wants/phases.service"));
  await writeFile(join(root, "etc/machine-id"), "");
}

/** Adds programs, which are lines of sh, in front of those of the host. */
export async function addPrograms(root: string, programs: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, script] of Object.entries(programs)) {
    const file = join(root, "usr/local/sbin", name);
    await writeFile(file, `#!/bin/sh\n${script}\n`);
    await chmod(file, 0o755);
  }
}
