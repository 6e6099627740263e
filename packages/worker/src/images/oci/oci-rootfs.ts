import { mkdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { formatImageReference, parseImageReference } from "@opensandbox/wire/worker/image-reference.ts";
import { runCommand } from "#host/run-command.ts";
import { artifactsOf, provideArtifact } from "#images/artifact.ts";
import { makeExt4 } from "#images/ext4.ts";
import { checkFreeSpace } from "#images/free-space.ts";
import { artifactPlace, type ImageSource } from "#images/image-source.ts";
import type { Kit } from "#images/kit.ts";
import { removeBuild } from "#images/privileged.ts";
import { type BuildOptions, throttled } from "#images/progress.ts";
import type { Rootfs } from "#images/rootfs.ts";
import { type ImageContent, type ImageLayer, type ImageManifest, readImageManifest } from "./image-manifest.ts";
import { Repository } from "./registry.ts";
import { Unpacking } from "./unpack/unpacking.ts";

/** The size of an imported image's root file system in the guest, that of the image `default`. */
export const importedRootfsMib = 20_480;

/** Raise it when the same layers give another root file system. */
const unpackVersion = 1;
const downloadsAtOnce = 3;
const maxEntries = 500_000;
/** An uncompressed layer is about three times as large, and lies on the disk once as files and once as a file system. */
const diskRatio = 8;

export interface OciOptions extends BuildOptions {
  /** Asks the registry what a tag means now. Without it, an image that is there is used. */
  readonly refresh?: boolean;
  /** An archive that holds the image. Absent: the registry of its name. */
  readonly archive?: ImageContent;
}

/**
 * The root file system of a registry's image, pulled when it is missing.
 * @throws `invalid_argument` for a name or image that cannot be used; `not_found`; `permission_denied` for a registry
 *   that is not allowed or wants other credentials; `unavailable`
 */
export async function provideOciRootfs(
  source: ImageSource,
  name: string,
  kit: Kit,
  { refresh = false, archive, onProgress, signal = new AbortController().signal }: OciOptions,
): Promise<Rootfs> {
  const reference = parseImageReference(name);
  const full = formatImageReference(reference);
  const present = refresh || archive !== undefined ? undefined : await newestOf(source, full);
  // An image that is there needs no registry, which may not be allowed any more.
  let asked = archive;
  const content = (): ImageContent => (asked ??= new Repository(source.registries, reference));
  const wanted =
    present?.digest ??
    (await readImageManifest(content(), reference.digest ?? reference.tag ?? "latest", signal)).digest;
  const report = onProgress === undefined ? () => undefined : throttled(onProgress);
  const title = `${archive === undefined ? "pulling" : "loading"} ${full}`;

  const artifact = await provideArtifact({
    kind: "image",
    ...artifactPlace(source),
    inputs: { name: full, digest: wanted, rootfsMib: importedRootfsMib, unpackVersion, kit: kit.id },
    needMib: 512,
    signal,
    build: async (target) => {
      report({ step: title, percent: 0 });
      const manifest = await readImageManifest(content(), wanted, signal);
      const bytes = manifest.layers.reduce((sum, { size }) => sum + size, 0);
      await checkFreeSpace(target, full, Math.ceil((bytes * diskRatio) / 2 ** 20) + 512);
      // Other users of the host cannot pass through, so a setuid program of the image is of no use to them.
      const unpacked = join(target, "unpacked");
      const root = join(unpacked, "root");
      await mkdir(unpacked, { mode: 0o700 });
      await mkdir(root, { mode: 0o755 });
      const modules = join(target, "modules.tar");
      await runCommand(
        "pack the kernel modules",
        [
          "tar",
          "--create",
          `--file=${modules}`,
          `--directory=${kit.modules}`,
          "--owner=0",
          "--group=0",
          "--numeric-owner",
          ".",
        ],
        { signal },
      );
      const limits = { maxBytes: source.maxImageBytes, maxEntries };
      await using unpacking = await Unpacking.start(root, limits, signal);
      for await (const [layer, file] of downloaded(
        content(),
        manifest,
        target,
        (done) => {
          report({
            step: `${title}: ${megabytes(done)} of ${megabytes(bytes)} MB`,
            percent: Math.floor((80 * done) / Math.max(bytes, 1)),
          });
        },
        signal,
      )) {
        const { size, compression, diffId } = layer;
        await unpacking.layer({ file, size, compression, diffId, directory: "" });
        await rm(file);
      }
      const { size } = await stat(modules);
      await unpacking.layer({ file: modules, size, compression: "none", directory: "/lib/modules" });
      await unpacking.finish(manifest.config);
      await rm(modules);
      report({ step: `${title}: making the file system`, percent: 90 });
      await makeExt4({
        file: join(target, "rootfs.ext4"),
        sizeMib: importedRootfsMib,
        content: root,
        label: "rootfs",
        uuid: "b3e7a0c4-2f61-4f0e-9a57-6d1c52b0e001",
        journalMib: 32,
        signal,
      });
      await removeBuild(unpacked);
      return { name: full, digest: wanted, kernelVersion: kit.kernelVersion };
    },
  });
  return { path: join(artifact.directory, "rootfs.ext4"), hash: artifact.hash };
}

/** The newest pull of an image, whatever kernel it was made with. */
async function newestOf(
  { imagesDirectory }: ImageSource,
  name: string,
): Promise<{ readonly digest: string } | undefined> {
  const pulls = (await artifactsOf(imagesDirectory, "image")).filter(({ facts }) => facts["name"] === name);
  const digest = pulls.toSorted((a, b) => a.createdAt.localeCompare(b.createdAt)).at(-1)?.facts["digest"];
  return digest === undefined ? undefined : { digest };
}

/** Layers in their order, each as soon as it is there. Some are fetched ahead. */
async function* downloaded(
  content: ImageContent,
  { layers }: ImageManifest,
  directory: string,
  onBytes: (done: number) => void,
  signal: AbortSignal,
): AsyncGenerator<readonly [ImageLayer, string]> {
  const stop = new AbortController();
  const until = AbortSignal.any([signal, stop.signal]);
  let done = 0;
  const fetches: Promise<string>[] = [];
  const fetchNext = (): void => {
    const index = fetches.length;
    const layer = layers[index];
    if (layer === undefined) return;
    const file = join(directory, `layer-${index}`);
    const fetched = content.download(layer, file, (bytes) => onBytes((done += bytes)), until).then(() => file);
    // Awaited below, unless an earlier layer fails first.
    fetched.catch(() => undefined);
    fetches.push(fetched);
  };
  try {
    for (let index = 0; index < downloadsAtOnce; index++) fetchNext();
    for (const [index, layer] of layers.entries()) {
      const file = await fetches[index];
      fetchNext();
      if (file !== undefined) yield [layer, file];
    }
  } finally {
    stop.abort();
    await Promise.allSettled(fetches);
  }
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 1e6);
}
