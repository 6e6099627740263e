import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { hashOfFile, provideArtifact } from "../../packages/worker/src/images/artifact.ts";
import { cpioArchive } from "../../packages/worker/src/images/cpio.ts";
import { makeExt4 } from "../../packages/worker/src/images/ext4.ts";
import { imageSource } from "../../packages/worker/src/images/image-source.ts";
import { driverEntries } from "../../packages/worker/src/images/initramfs.ts";
import { type Kit, provideKit } from "../../packages/worker/src/images/kit.ts";
import { removeBuild, runPrivileged } from "../../packages/worker/src/images/privileged.ts";
import type { BuildOptions } from "../../packages/worker/src/images/progress.ts";

/** The boot files of the KVM host: a Debian with QEMU, cached beside the images of sandboxes. */
export interface KvmHostImage {
  readonly kernel: string;
  readonly initramfs: string;
  /** A raw ext4 file system; nothing writes to it. */
  readonly rootfs: string;
}

const recipe = {
  suite: "trixie",
  packages: [
    // Packages that machines need.
    ...["qemu-system-x86", "qemu-utils", "iproute2", "nftables", "e2fsprogs", "libatomic1"],
    // Other programs that the launcher and doctor look for.
    ...["mmdebstrap", "uidmap", "xz-utils", "debian-archive-keyring"],
    // The host itself: udev gives /dev/kvm Debian's group and mode.
    ...["udev", "kmod", "procps", "ca-certificates"],
  ],
  rootfsMib: 4096,
};

/** The image of the KVM host. A missing image is built, which takes two minutes. */
export async function provideKvmHost(imagesDirectory: string, options: BuildOptions = {}): Promise<KvmHostImage> {
  const source = imageSource({ imagesDirectory });
  const kit = await provideKit(source, options);
  const { onProgress, signal } = options;
  const { directory } = await provideArtifact({
    kind: "kvm-host",
    imagesDirectory,
    inputs: { recipe, kit: kit.id },
    needMib: 3072,
    signal,
    build: async (target) => {
      const root = join(target, "root");
      onProgress?.({ step: "building the KVM host: installing Debian's packages" });
      await runPrivileged(
        "building the KVM host",
        [
          ...(["mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase"] as const),
          ...["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"],
          ...["--dpkgopt=path-exclude=/usr/share/locale/*", `--include=${recipe.packages.join(",")}`],
          ...[recipe.suite, root, source.debianMirror],
        ],
        {
          env: { TMPDIR: target, DEBIAN_FRONTEND: "noninteractive" },
          ...(signal === undefined ? {} : { signal }),
        },
      );
      onProgress?.({ step: "building the KVM host: making the file system" });
      await cp(kit.modules, join(root, "usr/lib/modules"), { recursive: true, preserveTimestamps: true });
      await makeExt4({
        file: join(target, "rootfs.ext4"),
        sizeMib: recipe.rootfsMib,
        content: root,
        label: "kvm-host",
        uuid: "b3e7a0c4-2f61-4f0e-9a57-6d1c52b0e0a1",
        journalMib: 0,
        ...(signal === undefined ? {} : { signal }),
      });
      await removeBuild(root);
      return { kernelVersion: kit.kernelVersion };
    },
  });
  const initramfs = await provideHostInitramfs(imagesDirectory, kit, signal);
  return { kernel: kit.kernel, initramfs, rootfs: join(directory, "rootfs.ext4") };
}

/** The initramfs that mounts /dev/vda as the root file system and /dev/vdb at /work, and starts a program there. */
export async function provideHostInitramfs(
  imagesDirectory: string,
  kit: Kit,
  signal: AbortSignal | undefined,
): Promise<string> {
  const init = join(import.meta.dirname, "initramfs-init");
  const drivers = ["virtio_blk"];
  const { directory } = await provideArtifact({
    kind: "kvm-host-initramfs",
    imagesDirectory,
    inputs: { drivers, kit: kit.id, init: await hashOfFile(init) },
    needMib: 16,
    signal,
    build: async (target) => {
      const entries = [
        ...["bin", "dev", "modules", "newroot", "proc"].map(
          (path) => ({ path, kind: "directory", mode: 0o755 }) as const,
        ),
        { path: "init", kind: "file", mode: 0o755, content: await readFile(init) } as const,
        { path: "bin/busybox", kind: "file", mode: 0o755, content: await readFile(kit.busybox) } as const,
        { path: "bin/sh", kind: "symlink", mode: 0o777, content: Buffer.from("busybox") } as const,
        ...(await driverEntries(kit, drivers, signal)),
      ];
      await writeFile(join(target, "initramfs.cpio"), cpioArchive(entries));
      return { kernelVersion: kit.kernelVersion };
    },
  });
  return join(directory, "initramfs.cpio");
}
