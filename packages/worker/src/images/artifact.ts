import { createHash } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { lockFile } from "#host/file-lock.ts";
import { checkFreeSpace } from "#images/free-space.ts";
import { removeBuild } from "#images/privileged.ts";

// An artifact is an immutable directory `<kind>-<hash>` of read-only files with a manifest. It is built in
// `.building-<kind>-<hash>` under the lock of that name and appears by a rename, so it is there completely or not at
// all, and whoever holds the lock knows that a directory of that name was left by a builder that died.

/** Part of every hash: raise it when code here makes something else of the same inputs. */
const formatVersion = 1;

const manifestFile = "manifest.json";
const building = ".building-";
const removed = ".removed-";

export interface Artifact {
  readonly kind: string;
  readonly hash: string;
  readonly directory: string;
  readonly createdAt: string;
  /** What later steps and listings want to know of it. */
  readonly facts: Readonly<Record<string, string>>;
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly allocatedBytes: number }>>;
}

export interface ArtifactRequest {
  readonly kind: string;
  readonly imagesDirectory: string;
  /** Everything that decides what is built; anything JSON can hold. */
  readonly inputs: unknown;
  /** Free disk space that the build needs. */
  readonly needMib: number;
  /** Fills the directory and returns the facts. Files in it become read-only. */
  readonly build: (directory: string) => Promise<Readonly<Record<string, string>>>;
  readonly signal: AbortSignal | undefined;
}

/** The artifact of these inputs, built when it is not there. Two who ask at the same time get one build. */
export async function provideArtifact(request: ArtifactRequest): Promise<Artifact> {
  const { imagesDirectory, kind, signal } = request;
  const hash = hashOf(kind, request.inputs);
  const directory = join(imagesDirectory, `${kind}-${hash}`);
  const present = await readArtifact(directory);
  if (present !== undefined) return present;

  await makeImagesDirectory(imagesDirectory);
  using _lock = await lockFile(lockPath(imagesDirectory, `${kind}-${hash}`), { wait: true }, signal);
  const builtMeanwhile = await readArtifact(directory);
  if (builtMeanwhile !== undefined) return builtMeanwhile;

  await removeAbandoned(imagesDirectory, `${kind}-${hash}`);
  await checkFreeSpace(imagesDirectory, kind, request.needMib);
  const unfinished = join(imagesDirectory, `${building}${kind}-${hash}`);
  try {
    await mkdir(unfinished, { mode: 0o755 });
    const facts = await request.build(unfinished);
    const files = await sealFiles(unfinished);
    const manifest = { kind, hash, formatVersion, createdAt: new Date().toISOString(), facts, files };
    await writeFile(join(unfinished, manifestFile), `${JSON.stringify(manifest, undefined, 2)}\n`, { mode: 0o444 });
    signal?.throwIfAborted();
    await rename(unfinished, directory);
  } catch (error) {
    await removeBuild(unfinished);
    if (signal?.aborted !== true || isSandboxError(error, "canceled")) throw error;
    throw new SandboxError("canceled", `building ${kind}: canceled`, { cause: error });
  }
  const artifact = await readArtifact(directory);
  if (artifact === undefined) throw new SandboxError("internal", `${directory} vanished after it was built`);
  return artifact;
}

/** All finished artifacts of a kind, in no particular order. */
export async function artifactsOf(imagesDirectory: string, kind: string): Promise<readonly Artifact[]> {
  const names = (await namesIn(imagesDirectory)).filter((name) => name.startsWith(`${kind}-`));
  const artifacts = await Promise.all(names.map((name) => readArtifact(join(imagesDirectory, name))));
  return artifacts.filter((artifact) => artifact !== undefined);
}

/** Removes an artifact. It disappears in one step, so that nobody finds half of it. */
export async function removeArtifact({ directory, kind, hash }: Artifact): Promise<void> {
  const imagesDirectory = join(directory, "..");
  using _lock = await lockFile(lockPath(imagesDirectory, `${kind}-${hash}`), { wait: true });
  const doomed = join(imagesDirectory, `${removed}${kind}-${hash}`);
  await removeBuild(doomed);
  await rename(directory, doomed);
  await removeBuild(doomed);
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

function hashOf(kind: string, inputs: unknown): string {
  const text = JSON.stringify([formatVersion, kind, inputs]);
  // 96 bits: a name, not a signature.
  return createHash("sha256").update(text).digest("hex").slice(0, 24);
}

async function readArtifact(directory: string): Promise<Artifact | undefined> {
  const file = join(directory, manifestFile);
  try {
    return { directory, ...(JSON.parse(await readFile(file, "utf8")) as Omit<Artifact, "directory">) };
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new SandboxError("unavailable", `cannot read ${file}: ${(cause as Error).message}`, { cause });
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

/** What builders that died have left. `held` is the lock that the caller holds; the others are asked for. */
async function removeAbandoned(imagesDirectory: string, held: string): Promise<void> {
  for (const entry of await namesIn(imagesDirectory)) {
    const prefix = [building, removed].find((start) => entry.startsWith(start));
    if (prefix === undefined) continue;
    const name = entry.slice(prefix.length);
    using lock = name === held ? undefined : await lockFile(lockPath(imagesDirectory, name), { wait: false });
    if (name === held || lock !== undefined) await removeBuild(join(imagesDirectory, entry));
  }
}

async function namesIn(directory: string): Promise<readonly string[]> {
  try {
    return await readdir(directory);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw cause;
  }
}

/** Makes the files durable and readable by QEMU's user, and measures those at the top. */
async function sealFiles(directory: string): Promise<Artifact["files"]> {
  const files: Record<string, { bytes: number; allocatedBytes: number }> = {};
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(directory, entry.name);
    await using file = await open(path);
    await file.sync();
    const { mode, size, blocks } = await file.stat();
    await file.chmod((mode & 0o111) === 0 ? 0o444 : 0o555);
    files[entry.name] = { bytes: size, allocatedBytes: blocks * 512 };
  }
  return files;
}
