import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { type ContentRecord, recordContent } from "#host/content-record.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { HypervisorName } from "@opensandbox/wire/worker/worker.ts";

/** Raised when a reader of today could not understand what is written tomorrow. */
const formatVersion = 1;

export interface Shape {
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
}

/** A file that never changes any more, by its name in the directory. */
export interface StoredFile {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** The files that a machine is made of, by their names in its directory or that of a snapshot of it. */
export interface MachineFiles {
  readonly kernel: string;
  readonly initramfs: string;
  /** What the memory begins as. */
  readonly memoryBase: string;
  readonly disks: readonly DiskFiles[];
  /** What is known of the kernel, the initramfs and the bases. Files of earlier versions have no record. */
  readonly contents?: readonly SharedContent[];
}

/** The record of a file that many machines share, taken when it was made. */
export interface SharedContent extends ContentRecord {
  readonly file: string;
}

export interface DiskFiles {
  readonly name: string;
  /** A raw image that many share. */
  readonly base: string;
  /** The overlays over it that are complete, the lowest first. A disk that is only read has none, ever. */
  readonly layers: readonly StoredFile[];
  readonly writable: boolean;
}

/** What a snapshot is: written last, and what has none does not exist. */
export interface SnapshotManifest {
  readonly id: string;
  readonly createdAt: string;
  readonly image: string;
  readonly shape: Shape;
  readonly network: "none" | "user" | "tap";
  readonly hypervisor: { readonly name: HypervisorName; readonly version: string };
  /** The guest confirmed that nothing was being written to its disks. Never false: such a snapshot is not made. */
  readonly frozen: true;
  readonly files: MachineFiles;
  /** Absent: only the disks were kept. */
  readonly memory?: MemoryFiles;
  /** What the snapshot takes beyond what it shares with others, in bytes. */
  readonly ownBytes: number;
}

export interface MemoryFiles {
  /** What a machine must be for this memory: see `Restoring.compatibilityOf`. */
  readonly compatibility: string;
  readonly devices: StoredFile;
  /** What differs from the base. Absent: the base is the memory. */
  readonly delta?: StoredFile;
  /** What the guest was to have beyond the shape's memory, in MiB. Absent: it had nothing of that. */
  readonly growthMib?: number;
}

/** Writes the manifest of a snapshot that is captured now. */
export function manifestOf(
  origin: Pick<SnapshotManifest, "id" | "image" | "shape" | "network" | "hypervisor">,
  { files, memory, ownBytes }: Pick<SnapshotManifest, "files" | "ownBytes"> & { memory: MemoryFiles | undefined },
): SnapshotManifest {
  const { id, ...rest } = origin;
  return {
    id,
    createdAt: new Date().toISOString(),
    ...rest,
    frozen: true,
    files,
    ...(memory === undefined ? {} : { memory }),
    ownBytes,
  };
}

/** The manifest as a file, with a checksum over itself. */
export function encodeManifest(manifest: SnapshotManifest): string {
  const body = { formatVersion, ...manifest };
  return `${JSON.stringify({ ...body, sha256: checksum(body) }, undefined, 2)}\n`;
}

/** @throws `incompatible` for a manifest that is damaged or of another version */
export function decodeManifest(text: string): SnapshotManifest {
  const { sha256, ...body } = parse(text);
  if (sha256 !== checksum(body)) throw damaged("its manifest does not match its checksum");
  const { formatVersion: version, ...manifest } = body;
  if (version !== formatVersion) {
    throw new SandboxError(
      "incompatible",
      `the snapshot has format ${String(version)}, and this version reads format ${formatVersion}`,
      { reason: "format" },
    );
  }
  return manifest as unknown as SnapshotManifest;
}

function parse(text: string): Record<string, unknown> {
  if (text === "") throw damaged("its manifest is empty or missing");
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch (cause) {
    throw damaged("its manifest is not valid JSON", { cause });
  }
  if (typeof found !== "object" || found === null) throw damaged("its manifest is not a JSON object");
  return found as Record<string, unknown>;
}

function damaged(why: string, options?: ErrorOptions): SandboxError {
  return new SandboxError("incompatible", `the snapshot is damaged: ${why}`, { reason: "damaged" }, options);
}

function checksum(body: object): string {
  return createHash("sha256").update(JSON.stringify(body)).digest("hex");
}

/** `files` with another memory base, which is named `memoryBase` and is now at `path`, and with its record. */
export async function withMemoryBase(files: MachineFiles, memoryBase: string, path: string): Promise<MachineFiles> {
  await using file = await open(path);
  const others = files.contents?.filter((content) => content.file !== memoryBase) ?? [];
  return { ...files, memoryBase, contents: [...others, { file: memoryBase, ...(await recordContent(file)) }] };
}

/** All memory that the guest was to have, in MiB. */
export function memoryMibOf({ shape, memory }: SnapshotManifest): number {
  return shape.memoryMib + (memory?.growthMib ?? 0);
}

/** Every file of `files` beside the layers. */
export function sharedFiles({ kernel, initramfs, memoryBase, disks }: MachineFiles): readonly string[] {
  return [kernel, initramfs, memoryBase, ...disks.map(({ base }) => base)];
}

/** All files of `files`. */
export function allFiles(files: MachineFiles): readonly string[] {
  return [...sharedFiles(files), ...files.disks.flatMap(({ layers }) => layers.map(({ file }) => file))];
}
