import { createHash } from "node:crypto";
import { copyFile, cp, mkdir, readdir, rename } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { runCommand } from "#host/run-command.ts";
import { hashOfFile, provideArtifact } from "#images/artifact.ts";
import { kernelElf } from "#images/kernel/kernel-elf.ts";
import { artifactPlace, type ImageSource } from "#images/image-source.ts";
import { provideNamedKernel } from "#images/kernel/named-kernel.ts";
import type { BuildOptions } from "#images/progress.ts";
import { removeBuild, runPrivileged } from "#images/privileged.ts";

/** The parts that all images share. They come from Debian's packages, never from the host. */
export interface Kit {
  /** Identifies the content. It is an input of everything that is built with the kit. */
  readonly id: string;
  readonly kernelVersion: string;
  /** The kernel as an uncompressed ELF file. */
  readonly kernel: string;
  /** A statically linked busybox, which also runs on the host. */
  readonly busybox: string;
  /** The module tree for /usr/lib/modules, with the files of depmod. */
  readonly modules: string;
  /** Directory with the dynamic loader and libraries that the agent's Node needs. */
  readonly libraries: string;
}

const recipe = {
  suite: "trixie",
  // The first is the kernel, without drivers for real hardware. Node is linked with the last four.
  packages: ["linux-image-cloud-amd64", "busybox-static", "libc6", "libstdc++6", "libgcc-s1", "libatomic1"],
  libraries: [
    "ld-linux-x86-64.so.2",
    ...["libatomic.so.1", "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0"],
    ...["libresolv.so.2", "librt.so.1", "libstdc++.so.6", "libutil.so.1"],
  ],
};

/** The kit, fetched when it is missing, which takes about ten seconds, with the kernel that `source` names. */
export async function provideKit(source: ImageSource, options: BuildOptions): Promise<Kit> {
  const kit = await provideDebianKit(source, options);
  if (source.guestKernel === undefined) return kit;
  return { ...kit, ...(await provideNamedKernel(source, kit.id, source.guestKernel, options.signal)) };
}

async function provideDebianKit(source: ImageSource, { onProgress, signal }: BuildOptions): Promise<Kit> {
  const { directory, facts } = await provideArtifact({
    kind: "kit",
    ...artifactPlace(source),
    inputs: recipe,
    needMib: 500,
    signal,
    build: async (target) => {
      onProgress?.({ step: "fetching the guest kernel" });
      const root = join(target, "root");
      await runPrivileged(
        "fetch the guest kernel",
        [
          ...(["mmdebstrap", "--mode=root", "--format=directory", "--variant=extract"] as const),
          ...[`--include=${recipe.packages.join(",")}`, recipe.suite, root, source.debianMirror],
        ],
        {
          env: { TMPDIR: target },
          ...(signal === undefined ? {} : { signal }),
        },
      );
      return await assemble(root, target);
    },
  });
  return {
    id: facts.id ?? "",
    kernelVersion: facts.kernelVersion ?? "",
    kernel: join(directory, "vmlinux"),
    busybox: join(directory, "busybox"),
    modules: join(directory, "modules"),
    libraries: join(directory, "lib"),
  };
}

/** Picks the few files needed out of the unpacked packages in `root`. */
async function assemble(root: string, target: string): Promise<{ id: string; kernelVersion: string }> {
  const [kernelVersion, ...others] = await readdir(join(root, "usr/lib/modules"));
  if (kernelVersion === undefined || others.length > 0) {
    throw new SandboxError("internal", "the kernel package must bring exactly one module tree");
  }
  const libraries = join(root, "usr/lib/x86_64-linux-gnu");
  const loader = join(libraries, "ld-linux-x86-64.so.2");
  // The package is unpacked, not installed, so its module index does not exist yet.
  await runCommand("index the kernel modules", [
    ...([loader, "--library-path", libraries, "--argv0", "depmod", join(root, "usr/bin/kmod")] as const),
    ...["-b", root, "-m", "/usr/lib/modules", kernelVersion],
  ]);
  await rename(join(root, "usr/lib/modules"), join(target, "modules"));
  await mkdir(join(target, "lib"));
  for (const name of recipe.libraries) {
    await cp(join(libraries, name), join(target, "lib", name), { dereference: true });
  }
  await copyFile(join(root, "usr/bin/busybox"), join(target, "busybox"));
  await kernelElf(join(root, "boot", `vmlinuz-${kernelVersion}`), join(target, "vmlinux"));
  await removeBuild(root);

  const hash = createHash("sha256").update(kernelVersion);
  for (const name of ["vmlinux", "busybox", ...recipe.libraries.map((library) => join("lib", library))]) {
    hash.update(await hashOfFile(join(target, name)));
  }
  return { id: hash.digest("hex"), kernelVersion };
}
