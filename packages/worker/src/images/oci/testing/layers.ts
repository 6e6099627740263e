import { createHash } from "node:crypto";
import { gzipSync, zstdCompressSync } from "node:zlib";

/** An entry of a layer, written as it is: nothing keeps a test from making an archive that is wrong. */
export interface LayerEntry {
  readonly path: string;
  /** The letter of the header: "0" file, "1" link, "2" symlink, "3" character device, "5" directory, "6" fifo. */
  readonly type?: string;
  readonly content?: string | Buffer;
  readonly target?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  /** The size that the header names, where it differs from the content's. */
  readonly size?: number;
  /** Records of a PAX header before the entry. */
  readonly pax?: Readonly<Record<string, string | Buffer>>;
}

/** A tar archive of these entries. Paths are Latin-1 text, one character for each byte. */
export function tarOf(entries: readonly LayerEntry[]): Buffer {
  return Buffer.concat([...entries.flatMap(blocksOf), Buffer.alloc(1024)]);
}

function blocksOf(entry: LayerEntry): readonly Buffer[] {
  const { path, pax, target = "", content = "" } = entry;
  const body = Buffer.isBuffer(content) ? content : Buffer.from(content);
  const needsPax = path.length > 100 || target.length > 100;
  const records = {
    ...(needsPax ? { path: Buffer.from(path, "latin1"), linkpath: Buffer.from(target, "latin1") } : {}),
    ...pax,
  };
  const before = Object.keys(records).length === 0 ? [] : paxBlocks(records);
  return [...before, headerOf(entry, entry.type ?? "0", entry.size ?? body.length), padded(body)];
}

function paxBlocks(records: Readonly<Record<string, string | Buffer>>): readonly Buffer[] {
  const body = Buffer.concat(
    Object.entries(records).map(([key, value]) => {
      const rest = Buffer.concat([Buffer.from(` ${key}=`), Buffer.from(value as string), Buffer.from("\n")]);
      let length = rest.length + 1;
      while (length !== rest.length + String(length).length) length = rest.length + String(length).length;
      return Buffer.concat([Buffer.from(String(length)), rest]);
    }),
  );
  return [headerOf({ path: "PaxHeaders/0" }, "x", body.length), padded(body)];
}

function headerOf(
  { path, target = "", mode = 0o644, uid = 0, gid = 0, mtime = 0 }: LayerEntry,
  type: string,
  size: number,
): Buffer {
  const header = Buffer.alloc(512);
  header.write(path.slice(0, 100), 0, "latin1");
  const octal = (value: number, at: number, digits: number): void => {
    header.write(value.toString(8).padStart(digits, "0"), at);
  };
  octal(mode, 100, 7);
  octal(uid, 108, 7);
  octal(gid, 116, 7);
  octal(size, 124, 11);
  octal(mtime, 136, 11);
  header.write(type, 156, "latin1");
  header.write(target.slice(0, 100), 157, "latin1");
  header.write("ustar\u000000", 257, "latin1");
  let sum = 8 * 32;
  for (const byte of header) sum += byte;
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}

function padded(body: Buffer): Buffer {
  return Buffer.concat([body, Buffer.alloc((512 - (body.length % 512)) % 512)]);
}

export interface Blob {
  readonly mediaType: string;
  readonly bytes: Buffer;
}

/** An image as blobs: its manifest, and everything that it names. */
export interface TestImage {
  readonly manifest: Blob;
  readonly blobs: readonly Blob[];
}

export type LayerForm = "tar" | "tar+gzip" | "tar+zstd";

/** An image of these layers, each a tar archive. */
export function imageOf(
  layers: readonly { readonly tar: Buffer; readonly form?: LayerForm }[],
  config: Readonly<Record<string, unknown>> = {},
  platform: Readonly<Record<string, string>> = { os: "linux", architecture: "amd64" },
): TestImage {
  const compressed = layers.map(({ tar, form = "tar+gzip" }): Blob => {
    const bytes = form === "tar" ? tar : form === "tar+gzip" ? gzipSync(tar, { level: 1 }) : zstdCompressSync(tar);
    return { mediaType: `application/vnd.oci.image.layer.v1.${form}`, bytes };
  });
  const configBlob = {
    mediaType: "application/vnd.oci.image.config.v1+json",
    bytes: Buffer.from(
      JSON.stringify({
        ...platform,
        config,
        rootfs: { type: "layers", diff_ids: layers.map(({ tar }) => digest(tar)) },
      }),
    ),
  };
  const manifest = {
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    bytes: Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: descriptorOf(configBlob),
        layers: compressed.map(descriptorOf),
      }),
    ),
  };
  return { manifest, blobs: [configBlob, ...compressed] };
}

/** An index of images of several platforms. */
export function indexOf(images: readonly (readonly [TestImage, Readonly<Record<string, string>>])[]): Blob {
  return {
    mediaType: "application/vnd.oci.image.index.v1+json",
    bytes: Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: "application/vnd.oci.image.index.v1+json",
        manifests: images.map(([{ manifest }, platform]) => ({ ...descriptorOf(manifest), platform })),
      }),
    ),
  };
}

export function descriptorOf({ mediaType, bytes }: Blob): { mediaType: string; digest: string; size: number } {
  return { mediaType, digest: digest(bytes), size: bytes.length };
}

export function digest(bytes: Buffer): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}
