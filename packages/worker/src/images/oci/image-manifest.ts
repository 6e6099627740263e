import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Descriptor, Document } from "./registry.ts";
import { parseJson } from "./registry.ts";

// The formats: https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md and config.md. Docker's own, of which
// these are descendants, differ in media types only.

/** Where an image's documents and layers come from: a registry, or an archive of this host. */
export interface ImageContent {
  manifest(tagOrDigest: string, signal: AbortSignal): Promise<Document>;
  document(descriptor: Descriptor, signal: AbortSignal): Promise<Document>;
  download(descriptor: Descriptor, file: string, onBytes: (bytes: number) => void, signal: AbortSignal): Promise<void>;
}

/** What an image says about the programs that run in it. */
export interface ImageConfig {
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly workdir: string;
  /** A name or number, with an optional group after a colon; empty for root. */
  readonly user: string;
}

export interface ImageLayer extends Descriptor {
  /** SHA-256 of the uncompressed layer. */
  readonly diffId: string;
  readonly compression: Compression;
}

export type Compression = "none" | "gzip" | "zstd";

export interface ImageManifest {
  /** Of the manifest for this platform: it identifies the image. */
  readonly digest: string;
  readonly layers: readonly ImageLayer[];
  readonly config: ImageConfig;
}

/** Docker's limit is 127. */
const maxLayers = 256;
const maxManifests = 1000;
/** The largest environment and command that a configuration may ask for, in bytes of JSON. */
const maxConfigBytes = 128 * 1024;

const compressions: Readonly<Record<string, Compression>> = {
  "application/vnd.oci.image.layer.v1.tar": "none",
  "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
  "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
  "application/vnd.docker.image.rootfs.diff.tar": "none",
  "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
  "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
};

/**
 * Reads an image's manifest, through an index of platforms where there is one, and its configuration.
 * @throws `invalid_argument` for an image without a variant for linux/amd64, and for documents that fit no specification
 */
export async function readImageManifest(
  content: ImageContent,
  tagOrDigest: string,
  signal: AbortSignal,
): Promise<ImageManifest> {
  let document = await content.manifest(tagOrDigest, signal);
  let value = asObject(parseJson(document.bytes), "the manifest");
  if (Array.isArray(value["manifests"])) {
    const wanted = platformOf(value["manifests"] as readonly unknown[]);
    document = await content.manifest(wanted.digest, signal);
    value = asObject(parseJson(document.bytes), "the manifest");
  }
  if (value["schemaVersion"] !== 2 || !Array.isArray(value["layers"])) {
    throw invalid("its manifest is of a format older than Docker's version 2, or none");
  }
  const layers = (value["layers"] as readonly unknown[]).map((layer) => asDescriptor(layer, "a layer"));
  if (layers.length > maxLayers) throw invalid(`it has more than ${maxLayers} layers`);
  const configDocument = await content.document(asDescriptor(value["config"], "the configuration"), signal);
  const config = asObject(parseJson(configDocument.bytes), "the configuration");
  const { os, architecture } = config;
  if (os !== "linux" || architecture !== "amd64") {
    throw invalid(
      `it is for ${String(os).slice(0, 20)}/${String(architecture).slice(0, 20)}, and machines are linux/amd64`,
    );
  }
  const diffIds = asObject(config["rootfs"], "the list of layers")["diff_ids"];
  if (!Array.isArray(diffIds) || diffIds.length !== layers.length || !diffIds.every(isDigest)) {
    throw invalid("its configuration does not name the layers of its manifest");
  }
  return {
    digest: document.digest,
    layers: layers.map((layer, index) => ({
      ...layer,
      diffId: String(diffIds[index]),
      compression: compressionOf(layer),
    })),
    config: configOf(asObject(config["config"] ?? {}, "the configuration")),
  };
}

function platformOf(manifests: readonly unknown[]): Descriptor {
  if (manifests.length > maxManifests) throw invalid(`its index names more than ${maxManifests} manifests`);
  const fitting = manifests.find((one) => {
    const platform = (one as { platform?: { os?: unknown; architecture?: unknown } } | null)?.platform;
    return platform?.os === "linux" && platform.architecture === "amd64";
  });
  // An index with one entry need not name a platform.
  const found = fitting ?? (manifests.length === 1 ? manifests[0] : undefined);
  if (found === undefined) throw invalid("it has no variant for linux/amd64");
  return asDescriptor(found, "a manifest");
}

function compressionOf({ mediaType }: Descriptor): Compression {
  const compression = compressions[mediaType];
  if (compression === undefined) throw invalid(`a layer has the unknown media type ${mediaType.slice(0, 100)}`);
  return compression;
}

function configOf(config: Readonly<Record<string, unknown>>): ImageConfig {
  const strings = (key: string): readonly string[] => {
    const value = config[key] ?? [];
    if (!Array.isArray(value) || !value.every((entry) => typeof entry === "string" && !entry.includes("\0"))) {
      throw invalid(`its configuration has something else than a list of strings as ${key}`);
    }
    return value as string[];
  };
  const string = (key: string): string => {
    const value = config[key] ?? "";
    if (typeof value !== "string" || /[\0\n]/.test(value)) throw invalid(`its configuration has no usable ${key}`);
    return value;
  };
  const found = {
    env: strings("Env").filter((entry) => entry.indexOf("=") > 0),
    entrypoint: strings("Entrypoint"),
    cmd: strings("Cmd"),
    workdir: string("WorkingDir"),
    user: string("User"),
  };
  if (JSON.stringify(found).length > maxConfigBytes) throw invalid(`its configuration exceeds ${maxConfigBytes} bytes`);
  return found;
}

function asDescriptor(value: unknown, what: string): Descriptor {
  const { mediaType, digest, size } = asObject(value, what);
  if (typeof mediaType !== "string" || !isDigest(digest) || !Number.isSafeInteger(size) || Number(size) < 0) {
    throw invalid(`the descriptor of ${what} is malformed`);
  }
  return { mediaType, digest: String(digest), size: Number(size) };
}

function isDigest(value: unknown): boolean {
  return typeof value === "string" && /^sha256:[0-9a-f]{64}$/.test(value);
}

function asObject(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalid(`${what} is no JSON object`);
  return value as Readonly<Record<string, unknown>>;
}

function invalid(what: string): SandboxError {
  return new SandboxError("invalid_argument", `the image cannot be used: ${what}`);
}
