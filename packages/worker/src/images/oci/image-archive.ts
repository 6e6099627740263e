import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ImageContent } from "./image-manifest.ts";
import { type Descriptor, digestOf, type Document, parseJson } from "./registry.ts";
import { TarReader } from "./tar-reader.ts";

// An archive is what `docker save`, `podman save` and `skopeo copy … oci-archive:` write: a layout of the OCI image
// specification (https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md), or Docker's older form, whose
// manifest.json names files of the archive.

const manifestType = "application/vnd.oci.image.manifest.v1+json";
/** An archive has a few files for each layer. */
const maxFiles = 10_000;
const maxDocumentBytes = 4 * 2 ** 20;

interface Part {
  readonly offset: number;
  readonly size: number;
}

/** One image in an archive of this host. */
export class ImageArchive implements ImageContent {
  readonly #file: string;
  readonly #parts: ReadonlyMap<string, Part>;
  /** Files of the archive by the digest of their content. */
  readonly #blobs = new Map<string, Part>();
  #manifest: Document | undefined;
  #name: string | undefined;

  /** @throws `invalid_argument` for a file that is no such archive, or holds more than one image; `not_found` */
  static async open(file: string): Promise<ImageArchive> {
    const archive = new ImageArchive(file, await partsOf(file));
    if (archive.#parts.has("index.json")) await archive.#readLayout();
    else if (archive.#parts.has("manifest.json")) await archive.#readDockerForm();
    else throw invalid(file, "it has neither an index.json nor a manifest.json");
    return archive;
  }

  private constructor(file: string, parts: ReadonlyMap<string, Part>) {
    this.#file = file;
    this.#parts = parts;
  }

  /** The name that the archive gives to the image. */
  get name(): string | undefined {
    return this.#name;
  }

  async manifest(tagOrDigest: string): Promise<Document> {
    if (!tagOrDigest.startsWith("sha256:") && this.#manifest !== undefined) return this.#manifest;
    if (tagOrDigest === this.#manifest?.digest) return this.#manifest;
    return await this.document({ mediaType: manifestType, digest: tagOrDigest, size: 0 });
  }

  async document({ digest, mediaType }: Descriptor): Promise<Document> {
    const part = this.#blob(digest);
    const bytes = await this.#read(part);
    if (digestOf(bytes) !== digest) throw invalid(this.#file, `its file ${digest} has other content`);
    return { mediaType, digest, bytes };
  }

  async download(
    { digest }: Descriptor,
    file: string,
    onBytes: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const { offset, size } = this.#blob(digest);
    const hash = createHash("sha256");
    await using target = await open(file, "wx", 0o600);
    const stream = createReadStream(this.#file, {
      start: offset,
      end: offset + size - 1,
      highWaterMark: 2 ** 18,
      signal,
    });
    for await (const part of size === 0 ? [] : stream) {
      const bytes = part as Buffer;
      hash.update(bytes);
      await target.appendFile(bytes);
      onBytes(bytes.length);
    }
    const found = `sha256:${hash.digest("hex")}`;
    if (found !== digest) throw invalid(this.#file, `its layer ${digest} has the digest ${found}`);
  }

  async #readLayout(): Promise<void> {
    for (const [path, part] of this.#parts) {
      const digest = /^blobs\/sha256\/([0-9a-f]{64})$/.exec(path)?.[1];
      if (digest !== undefined) this.#blobs.set(`sha256:${digest}`, part);
    }
    const index = asObject(parseJson(await this.#named("index.json")));
    const manifests = Array.isArray(index["manifests"]) ? (index["manifests"] as readonly unknown[]) : [];
    const names = manifests.map((one) => {
      const annotations = asObject(asObject(one)["annotations"]);
      return annotations["io.containerd.image.name"] ?? annotations["org.opencontainers.image.ref.name"];
    });
    const [name] = names;
    if (typeof name === "string") this.#name = name;
    const bytes = Buffer.from(JSON.stringify(index));
    this.#manifest = { mediaType: "application/vnd.oci.image.index.v1+json", digest: digestOf(bytes), bytes };
  }

  async #readDockerForm(): Promise<void> {
    const images = parseJson(await this.#named("manifest.json"));
    if (!Array.isArray(images) || images.length !== 1) throw invalid(this.#file, "it must hold exactly one image");
    const { Config: config, Layers: layers, RepoTags: names } = asObject(images[0]);
    if (typeof config !== "string" || !Array.isArray(layers) || !layers.every((one) => typeof one === "string")) {
      throw invalid(this.#file, "its manifest.json names no configuration and layers");
    }
    const described: Descriptor[] = [];
    for (const path of [config, ...layers]) {
      const part = this.#part(path);
      const digest = await this.#digestOf(part);
      this.#blobs.set(digest, part);
      const mediaType =
        path === config ? "application/vnd.oci.image.config.v1+json" : "application/vnd.oci.image.layer.v1.tar";
      described.push({ mediaType, digest, size: part.size });
    }
    const [configDescriptor, ...layerDescriptors] = described;
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, config: configDescriptor, layers: layerDescriptors }));
    this.#manifest = { mediaType: manifestType, digest: digestOf(bytes), bytes };
    const name = Array.isArray(names) ? (names as readonly unknown[])[0] : undefined;
    if (typeof name === "string") this.#name = name;
  }

  async #named(path: string): Promise<Buffer> {
    return await this.#read(this.#part(path));
  }

  #part(path: string): Part {
    const part = this.#parts.get(path);
    if (part === undefined)
      throw invalid(this.#file, `it names a file that it does not hold: ${JSON.stringify(path.slice(0, 100))}`);
    return part;
  }

  #blob(digest: string): Part {
    const part = this.#blobs.get(digest);
    if (part === undefined) throw invalid(this.#file, `it does not hold ${digest}`);
    return part;
  }

  async #read({ offset, size }: Part): Promise<Buffer> {
    if (size > maxDocumentBytes) throw invalid(this.#file, `a document in it has more than ${maxDocumentBytes} bytes`);
    await using file = await open(this.#file);
    const bytes = Buffer.alloc(size);
    const { bytesRead } = await file.read(bytes, 0, size, offset);
    if (bytesRead !== size) throw invalid(this.#file, "it has become shorter");
    return bytes;
  }

  async #digestOf({ offset, size }: Part): Promise<string> {
    const hash = createHash("sha256");
    const stream = createReadStream(this.#file, { start: offset, end: offset + size - 1, highWaterMark: 2 ** 18 });
    for await (const part of size === 0 ? [] : stream) hash.update(part as Buffer);
    return `sha256:${hash.digest("hex")}`;
  }
}

/** Where each file of an archive lies in it. Docker stores a layer that occurs twice as a link. */
async function partsOf(file: string): Promise<ReadonlyMap<string, Part>> {
  const parts = new Map<string, Part>();
  try {
    await using archive = await open(file);
    const reader = new TarReader(archive.createReadStream({ autoClose: false, highWaterMark: 2 ** 18 }));
    for (let entry = await reader.next(); entry !== undefined; entry = await reader.next()) {
      const path = pathIn(entry.path);
      if (entry.type === "file" && entry.segments === undefined) {
        parts.set(path, { offset: reader.position, size: entry.size });
      } else if (entry.type === "link" || entry.type === "symlink") {
        const base = entry.type === "link" ? "" : path.slice(0, path.lastIndexOf("/") + 1);
        const target = parts.get(pathIn(new URL(entry.target, `file:///${base}`).pathname));
        if (target !== undefined) parts.set(path, target);
      }
      if (parts.size > maxFiles) throw invalid(file, `it holds more than ${maxFiles} files`);
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT") throw error;
    throw new SandboxError("not_found", `there is no file ${file}`, { resource: "file", id: file }, { cause: error });
  }
  return parts;
}

function pathIn(path: string): string {
  return path.replace(/^(?:\.?\/)+/, "");
}

function asObject(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
}

function invalid(file: string, what: string): SandboxError {
  return new SandboxError("invalid_argument", `${file} cannot be used as an image: ${what}`);
}
