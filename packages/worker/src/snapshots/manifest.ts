import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { type ContentRecord, recordContent } from "#host/storage/content-record.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { HypervisorName } from "@opensandbox/wire/worker/worker.ts";

/**
 * Formats that this version reads. Raise the newest when this version could not read the manifests of the next one.
 * Format 2 has disks that are larger than their bases, format 3 has chunked deltas.
 */
const formatVersions = { oldest: 1, largerDisks: 2, newest: 3 } as const;

export interface Shape {
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly workspaceMib: number;
}

/** A file that never changes again, by its name in the directory. */
export interface StoredFile {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** The files of a machine, by their names in its directory or in the directory of its snapshot. */
export interface MachineFiles {
  readonly kernel: string;
  readonly initramfs: string;
  /** The memory's content at the start. */
  readonly memoryBase: string;
  readonly disks: readonly DiskFiles[];
  /** Records of the kernel, the initramfs and the bases. Files of earlier versions have none. */
  readonly contents?: readonly SharedContent[];
}

/** The record of a file that many machines share, taken when it was made. */
export interface SharedContent extends ContentRecord {
  readonly file: string;
}

export interface DiskFiles {
  readonly name: string;
  /** A raw image that many machines share. */
  readonly base: string;
  /** The complete overlays over the base, the lowest first. A read-only disk never has any. */
  readonly layers: readonly StoredFile[];
  readonly writable: boolean;
  /** The size of the disk in the guest. Absent: the size of the base. */
  readonly bytes?: number;
}

/** Describes a snapshot. It is written last: a directory without a manifest is not a snapshot. */
export interface SnapshotManifest {
  readonly id: string;
  readonly createdAt: string;
  readonly image: string;
  readonly shape: Shape;
  readonly network: "none" | "user" | "tap";
  readonly hypervisor: { readonly name: HypervisorName; readonly version: string };
  /** The guest confirmed that its disks were frozen. No other snapshots are made. */
  readonly frozen: true;
  readonly files: MachineFiles;
  /** Absent: only the disks were kept. */
  readonly memory?: MemoryFiles;
  /** Bytes that the snapshot shares with no other one. */
  readonly ownBytes: number;
}

export interface MemoryFiles {
  /** The kind of machine that can load this memory: see `Restoring.compatibilityOf`. */
  readonly compatibility: string;
  readonly devices: StoredFile;
  /** The difference to the base. Absent: the base is the memory. */
  readonly delta?: DeltaFile;
  /** Hotplugged memory that the guest was to have, in MiB. Absent: none. */
  readonly growthMib?: number;
  /** The memory to which the guest limits its commands, in MiB. Absent: all that its machine has. */
  readonly limitMib?: number;
  /** What the guest has confirmed last. Absent: unknown. */
  readonly guest?: GuestShape;
}

export interface DeltaFile extends StoredFile {
  /** `sha256` is that of the file's tail, which has the hashes of its chunks. Absent: it is that of the file. */
  readonly chunked?: true;
}

/** The part of a shape that the guest itself brings about. */
export interface GuestShape {
  /** Processors online. */
  readonly processors: number;
  /** Limits of its commands: memory in MiB, percent of one processor, processes. 0: none. */
  readonly memoryMib: number;
  readonly cpuPercent: number;
  readonly maxPids: number;
}

/** The manifest of a snapshot that is captured now. */
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

/** The manifest as text, with a checksum over itself. */
export function encodeManifest(manifest: SnapshotManifest): string {
  const body = { formatVersion: formatOf(manifest), ...manifest };
  return `${JSON.stringify({ ...body, sha256: checksum(body) }, undefined, 2)}\n`;
}

/** The oldest format that holds the manifest, so that earlier versions read as much as they can. */
function formatOf({ files, memory }: SnapshotManifest): number {
  if (memory?.delta?.chunked === true) return formatVersions.newest;
  const isLarger = files.disks.some(({ bytes }) => bytes !== undefined);
  return isLarger ? formatVersions.largerDisks : formatVersions.oldest;
}

/** @throws `incompatible` for a manifest that is damaged or of another version */
export function decodeManifest(text: string): SnapshotManifest {
  const { sha256, ...body } = parse(text);
  if (sha256 !== checksum(body)) throw damaged("its manifest does not match its checksum");
  const { formatVersion: version, ...manifest } = body;
  const { oldest, newest } = formatVersions;
  if (typeof version !== "number" || version < oldest || version > newest) {
    throw new SandboxError(
      "incompatible",
      `the snapshot has format ${String(version)}, and this version reads formats ${oldest} to ${newest}`,
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

/** The memory of the captured sandbox, in MiB: that of its machine, or the limit of its commands. */
export function memoryMibOf(manifest: SnapshotManifest): number {
  return manifest.memory?.limitMib ?? machineMemoryMibOf(manifest);
}

/** The memory that the captured machine was to have, hotplugged memory included, in MiB. */
export function machineMemoryMibOf({ shape, memory }: SnapshotManifest): number {
  return shape.memoryMib + (memory?.growthMib ?? 0);
}

/** All files of `files` except the layers. */
export function sharedFiles({ kernel, initramfs, memoryBase, disks }: MachineFiles): readonly string[] {
  return [kernel, initramfs, memoryBase, ...disks.map(({ base }) => base)];
}

/** All files of `files`. */
export function allFiles(files: MachineFiles): readonly string[] {
  return [...sharedFiles(files), ...files.disks.flatMap(({ layers }) => layers.map(({ file }) => file))];
}
