import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, suite, test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { ImageArchive } from "./image-archive.ts";
import { readImageManifest } from "./image-manifest.ts";
import { descriptorOf, digest, imageOf, type LayerEntry, tarOf } from "./testing/layers.ts";

suite("archives of images", () => {
  const { signal } = new AbortController();
  const tar = tarOf([{ path: "a", content: "a" }]);
  let directory: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-archive-"));
  });
  afterEach(() => rm(directory, { recursive: true }));

  async function archiveOf(entries: readonly LayerEntry[]): Promise<ImageArchive> {
    const file = join(directory, "image.tar");
    await writeFile(file, tarOf(entries));
    return await ImageArchive.open(file);
  }

  async function layersOf(archive: ImageArchive): Promise<readonly string[]> {
    const { layers } = await readImageManifest(archive, "latest", signal);
    const files = layers.map((_, index) => join(directory, `layer-${index}`));
    for (const [index, layer] of layers.entries()) {
      await archive.download(layer, files[index] ?? "", () => undefined, signal);
    }
    return await Promise.all(files.map(async (file) => digest(await readFile(file))));
  }

  test("an OCI layout gives its image and name", async () => {
    const { manifest, blobs } = imageOf([
      { tar, form: "tar" },
      { tar: tarOf([]), form: "tar+gzip" },
    ]);
    const named = { "io.containerd.image.name": "docker.io/library/app:1" };
    const index = { schemaVersion: 2, manifests: [{ ...descriptorOf(manifest), annotations: named }] };
    const archive = await archiveOf([
      { path: "oci-layout", content: '{"imageLayoutVersion":"1.0.0"}' },
      { path: "./index.json", content: JSON.stringify(index) },
      ...[manifest, ...blobs].map(({ bytes }) => ({ path: `blobs/sha256/${digest(bytes).slice(7)}`, content: bytes })),
    ]);
    assert.equal(archive.name, "docker.io/library/app:1");
    assert.deepEqual(
      await layersOf(archive),
      blobs.slice(1).map(({ bytes }) => digest(bytes)),
    );
  });

  test("Docker's older form gives its image and name, with a layer that is a link to another", async () => {
    const config = {
      os: "linux",
      architecture: "amd64",
      config: { Env: ["A=b"] },
      rootfs: { diff_ids: [digest(tar), digest(tar)] },
    };
    const index = [{ Config: "c.json", RepoTags: ["app:1"], Layers: ["one/layer.tar", "two/layer.tar"] }];
    const archive = await archiveOf([
      { path: "one/layer.tar", content: tar },
      { path: "two/layer.tar", type: "2", target: "../one/layer.tar" },
      { path: "c.json", content: JSON.stringify(config) },
      { path: "manifest.json", content: JSON.stringify(index) },
    ]);
    assert.equal(archive.name, "app:1");
    assert.deepEqual(await layersOf(archive), [digest(tar), digest(tar)]);
    assert.deepEqual((await readImageManifest(archive, "latest", signal)).config.env, ["A=b"]);
  });

  const refused: Readonly<Record<string, readonly LayerEntry[]>> = {
    "an archive of something else": [{ path: "a" }],
    "a manifest.json that names what is not there": [
      { path: "manifest.json", content: '[{"Config":"../../etc/passwd","Layers":[]}]' },
    ],
    "a manifest.json with two images": [{ path: "manifest.json", content: "[{},{}]" }],
    "an index.json that is a number": [{ path: "index.json", content: "7" }],
    "a document of five megabytes": [{ path: "index.json", content: Buffer.alloc(5 * 2 ** 20, "x") }],
  };
  for (const [what, entries] of Object.entries(refused)) {
    test(`${what} is refused with words`, async () => {
      await assert.rejects(
        async () => await layersOf(await archiveOf(entries)),
        (error) => isSandboxError(error, "invalid_argument"),
      );
    });
  }

  test("a file that is not there is said to be missing", async () => {
    await assert.rejects(ImageArchive.open(join(directory, "none")), (error) => isSandboxError(error, "not_found"));
  });
});
