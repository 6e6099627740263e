import { createHash } from "node:crypto";
import { mkdir, open, readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { ContentChecks } from "#host/storage/content-checks.ts";
import { type ContentRecord, recordContent } from "#host/storage/content-record.ts";
import { type DurableFiles, hostFiles } from "#host/storage/durable-files.ts";
import { lockFile } from "#host/file-lock.ts";
import { recordUse } from "#host/storage/last-use.ts";
import { ImmutableDirectories } from "#host/storage/immutable-directories.ts";
import type { Log } from "#host/log.ts";
import { checkFreeSpace } from "#images/free-space.ts";
import { removeBuild } from "#images/privileged.ts";

// An artifact is an immutable directory `<kind>-<hash>` of read-only files. Its builder holds the lock of that name, so
// a builder that gets the lock knows that an unfinished directory of the name was left by a process that died.

/** Part of every hash. Raise it when the same inputs give another result. */
const formatVersion = 1;

export interface Artifact {
  readonly kind: string;
  readonly hash: string;
  readonly directory: string;
  readonly createdAt: string;
  /** Properties for later build steps and for listings. */
  readonly facts: Readonly<Record<string, string>>;
  readonly files: Readonly<Record<string, ArtifactFile>>;
}

export interface ArtifactFile {
  readonly bytes: number;
  readonly allocatedBytes: number;
  /** Absent in artifacts of earlier versions, which are used unchecked. */
  readonly content?: ContentRecord;
}

export interface ArtifactRequest {
  readonly kind: string;
  readonly imagesDirectory: string;
  /** All inputs of the build, as a JSON value. Equal inputs make one artifact. */
  readonly inputs: unknown;
  /** Free disk space that the build needs. */
  readonly needMib: number;
  /** Fills the directory and returns the facts. Files in it become read-only. */
  readonly build: (directory: string) => Promise<Readonly<Record<string, string>>>;
  readonly signal: AbortSignal | undefined;
  /** Receives a warning when a damaged artifact is built again. */
  readonly log?: Log | undefined;
  /** Compares the files of an artifact that is already there with their records. */
  readonly checks?: ContentChecks | undefined;
  readonly files?: DurableFiles;
}

/**
 * The artifact of these inputs, built when it is missing or damaged. Callers that ask at the same
 * time, in any process, share one build.
 */
export async function provideArtifact(request: ArtifactRequest): Promise<Artifact> {
  const { imagesDirectory, kind, signal } = request;
  const hash = hashOf(kind, request.inputs);
  const name = `${kind}-${hash}`;
  const directories = artifactDirectories(imagesDirectory, request.files);
  const present = await findIntact(directories, name, request.checks);
  if (present !== "missing" && present !== "damaged") {
    recordUse(present.directory);
    return present;
  }

  await makeImagesDirectory(imagesDirectory);
  using _lock = await lockFile(lockPath(imagesDirectory, name), { wait: true }, signal);
  const builtMeanwhile = await findIntact(directories, name, request.checks);
  if (builtMeanwhile === "damaged") {
    request.log?.("warn", "a damaged artifact is built again", { artifact: name });
    await directories.remove(name);
  } else if (builtMeanwhile !== "missing") {
    return builtMeanwhile;
  }

  await removeAbandoned(directories, imagesDirectory, name);
  await checkFreeSpace(imagesDirectory, kind, request.needMib);
  try {
    await using unfinished = await directories.createUnfinished(name);
    const facts = await request.build(unfinished.directory);
    const files = await sealFiles(unfinished.directory);
    const manifest = { kind, hash, formatVersion, createdAt: new Date().toISOString(), facts, files };
    signal?.throwIfAborted();
    const directory = await unfinished.publish(`${JSON.stringify(manifest, undefined, 2)}\n`);
    return { ...manifest, directory };
  } catch (error) {
    if (signal?.aborted !== true || isSandboxError(error, "canceled")) throw error;
    throw new SandboxError("canceled", `building ${kind}: canceled`, { cause: error });
  }
}

/** All complete artifacts of a kind, in no particular order. */
export async function artifactsOf(imagesDirectory: string, kind: string): Promise<readonly Artifact[]> {
  const directories = artifactDirectories(imagesDirectory);
  const names = (await directories.names()).filter((name) => name.startsWith(`${kind}-`));
  const artifacts = await Promise.all(names.map((name) => readArtifact(directories, name)));
  return artifacts.filter((artifact) => artifact !== "missing" && artifact !== "damaged");
}

/** Removes an artifact, in one step for its readers. */
export async function removeArtifact({ directory }: Artifact): Promise<void> {
  const imagesDirectory = dirname(directory);
  const name = basename(directory);
  using _lock = await lockFile(lockPath(imagesDirectory, name), { wait: true });
  await artifactDirectories(imagesDirectory).remove(name);
}

/** The SHA-256 of a file's content, to be one of an artifact's inputs. */
export async function hashOfFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  await using file = await open(path);
  const chunk = Buffer.allocUnsafe(2 ** 20);
  for (;;) {
    const { bytesRead } = await file.read(chunk, 0, chunk.length);
    if (bytesRead === 0) return hash.digest("hex");
    hash.update(chunk.subarray(0, bytesRead));
  }
}

/** The name of the image that an artifact holds; undefined when its manifest cannot be read. */
export async function imageNameOf(directory: string): Promise<string | undefined> {
  const artifact = await readArtifact(artifactDirectories(dirname(directory)), basename(directory));
  return artifact === "missing" || artifact === "damaged" ? undefined : artifact.facts["name"];
}

/** The directories of all artifacts. Removing one needs its lock. */
export function artifactDirectories(imagesDirectory: string, files: DurableFiles = hostFiles): ImmutableDirectories {
  const modes = { parent: 0o755, directory: 0o755, manifest: 0o444 };
  return new ImmutableDirectories(imagesDirectory, { modes, removeTree: removeBuild, files });
}

function hashOf(kind: string, inputs: unknown): string {
  const text = JSON.stringify([formatVersion, kind, inputs]);
  // 96 bits are enough for a name; nothing relies on them as a signature.
  return createHash("sha256").update(text).digest("hex").slice(0, 24);
}

/**
 * The record of a file that lies in an artifact, taken when the artifact was built; undefined in artifacts of earlier
 * versions, which have none.
 */
export async function contentRecordOf(path: string): Promise<ContentRecord | undefined> {
  const directory = dirname(path);
  const artifact = await readArtifact(artifactDirectories(dirname(directory)), basename(directory));
  return artifact === "missing" || artifact === "damaged" ? undefined : artifact.files[basename(path)]?.content;
}

/** An artifact with a file that does not match its record counts as damaged. */
async function findIntact(
  directories: ImmutableDirectories,
  name: string,
  checks: ContentChecks | undefined,
): Promise<Artifact | "missing" | "damaged"> {
  const artifact = await readArtifact(directories, name);
  if (artifact === "missing" || artifact === "damaged" || checks === undefined) return artifact;
  const results = await Promise.all(
    Object.entries(artifact.files).map(async ([file, { content }]) =>
      content === undefined ? "intact" : await checks.check(join(artifact.directory, file), content),
    ),
  );
  return results.every((result) => result === "intact") ? artifact : "damaged";
}

/** @throws `unavailable` when the manifest is there and this process may not read it */
async function readArtifact(
  directories: ImmutableDirectories,
  name: string,
): Promise<Artifact | "missing" | "damaged"> {
  const directory = directories.pathOf(name);
  let text: string | undefined;
  try {
    text = await directories.readManifest(name);
  } catch (cause) {
    const { message } = cause as Error;
    throw new SandboxError("unavailable", `cannot read the artifact ${directory}: ${message}`, { cause });
  }
  if (text === undefined) return "missing";
  const manifest = parse(text);
  return manifest === undefined ? "damaged" : { ...manifest, directory };
}

/** Undefined for a text that is not a manifest. A power cut may have emptied the manifests of earlier versions. */
function parse(text: string): Omit<Artifact, "directory"> | undefined {
  try {
    const manifest = JSON.parse(text) as Partial<Artifact> | null;
    const isManifest =
      typeof manifest?.kind === "string" &&
      typeof manifest.hash === "string" &&
      typeof manifest.createdAt === "string" &&
      typeof manifest.facts === "object" &&
      typeof manifest.files === "object";
    return isManifest ? (manifest as Omit<Artifact, "directory">) : undefined;
  } catch {
    return undefined;
  }
}

async function makeImagesDirectory(path: string): Promise<void> {
  try {
    await mkdir(join(path, "locks"), { recursive: true, mode: 0o755 });
  } catch (cause) {
    const { message } = cause as Error;
    throw new SandboxError("unavailable", `cannot make the images directory: ${message}`, { cause });
  }
}

function lockPath(imagesDirectory: string, name: string): string {
  return join(imagesDirectory, "locks", name);
}

/** Removes what builders that died have left. The caller holds the lock `held`; the other locks are tried. */
async function removeAbandoned(
  directories: ImmutableDirectories,
  imagesDirectory: string,
  held: string,
): Promise<void> {
  for (const leftover of await directories.leftovers()) {
    const { label } = leftover;
    using lock = label === held ? undefined : await lockFile(lockPath(imagesDirectory, label), { wait: false });
    if (label === held || lock !== undefined) await directories.removeLeftover(leftover);
  }
}

/** Makes the files read-only and readable for QEMU's user, and records the content of the files at the top. */
async function sealFiles(directory: string): Promise<Artifact["files"]> {
  const files: Record<string, ArtifactFile> = {};
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    if (!entry.isFile()) continue;
    await using file = await open(join(directory, entry.name));
    const { mode, size, blocks } = await file.stat();
    await file.chmod((mode & 0o111) === 0 ? 0o444 : 0o555);
    files[entry.name] = { bytes: size, allocatedBytes: blocks * 512, content: await recordContent(file) };
  }
  return files;
}
