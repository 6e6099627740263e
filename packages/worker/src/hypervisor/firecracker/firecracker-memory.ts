import { open, readFile } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { type GuestMemory, type MemoryRegion, mappingsOf } from "../guest-memory.ts";
import type { Capturing, MemoryHotplug, VmSpec } from "../hypervisor.ts";
import type { ApiClient } from "./api-client.ts";
import * as requests from "./api-requests.ts";
import { hotplugSizeMib } from "./configuration.ts";

/** Guest memory below the devices' addresses, of x86: the rest of it is a second region, from 4 GiB on. */
const maxLowBytes = 3 * 2 ** 30;

/** Where Firecracker puts the table that leads a guest to its ACPI tables, in the guest's physical memory. */
const rsdp = { address: 0xe0000, signature: "RSD PTR " };

/**
 * Locates the guest's memory in a process of Firecracker, whose boot memory is `boot`. The memory that the guest can
 * receive is looked up once, when it is needed.
 */
export function memoryFinder(pid: number, spec: VmSpec, boot: readonly MemoryRegion[]): Capturing["memory"] {
  let hotplug: MemoryRegion | undefined;
  return async (hotplugged): Promise<GuestMemory> => {
    if (!hotplugged || hotplugSizeMib(spec.hotplugMib) === 0) return { pid, regions: boot };
    hotplug ??= await findHotplugMemory(pid, spec, boot);
    return { pid, regions: [...boot, hotplug] };
  };
}

/** The VM's hotplug; undefined without a device for it. */
export async function memoryHotplug({ hotplugMib }: VmSpec, api: ApiClient): Promise<MemoryHotplug | undefined> {
  if (hotplugSizeMib(hotplugMib) === 0 || (await requests.queryHotplug(api)) === undefined) return undefined;
  return {
    async state() {
      const status = await requests.queryHotplug(api);
      if (status === undefined)
        throw new SandboxError("internal", "Firecracker has lost the device for memory hotplug");
      return status;
    },
    request: (mib) => requests.requestHotplug(api, mib),
  };
}

/** Finds the boot memory of a VM that was restored: private mappings of the file `spec.memoryBase`, in the file's order. */
export async function findRestoredMemory(
  pid: number,
  { memoryBase, memoryMib }: VmSpec,
): Promise<readonly MemoryRegion[]> {
  const found = await mappingsOf(pid, memoryBase);
  return regionsOf(memoryMib).map(({ offset, bytes }) => {
    const parts = found.filter((part) => part.offset >= offset && part.offset < offset + bytes);
    const [first] = parts;
    // The kernel splits a mapping where madvise() differs.
    const isWhole = parts.every((part, index) => index === 0 || part.start === parts[index - 1]?.end);
    const end = parts.at(-1)?.end ?? 0;
    if (first === undefined || !isWhole || end - first.start !== bytes) throw notFound(pid);
    return { start: first.start, bytes };
  });
}

/**
 * Finds the boot memory of a VM that was booted: anonymous, so only its content tells it from other memory of the process.
 * The second region lies right below the first one.
 */
export async function findBootedMemory(pid: number, { memoryMib }: VmSpec): Promise<readonly MemoryRegion[]> {
  const [low, high] = regionsOf(memoryMib);
  if (low === undefined) throw notFound(pid);
  await using memory = await open(`/proc/${pid}/mem`, "r");
  const hasTable = async (start: number): Promise<boolean> => {
    const text = Buffer.alloc(rsdp.signature.length);
    // A page that is not mapped is not the guest's.
    await memory.read(text, 0, text.length, start + rsdp.address).catch(() => undefined);
    return text.toString("latin1") === rsdp.signature;
  };
  const mappings = anonymousMappings(await readFile(`/proc/${pid}/maps`, "utf8"));
  // The highest first: below lies memory that the guest has received and writes to.
  for (const { start, end } of mappings.filter(({ isWritable }) => isWritable).toReversed()) {
    // The kernel joins neighbours, such as a thread's stack, into one mapping.
    const first = start + (high?.bytes ?? 0);
    for (let address = end - low.bytes; address >= first; address -= pageBytes) {
      if (!(await hasTable(address))) continue;
      const below: MemoryRegion[] = high === undefined ? [] : [{ start: address - high.bytes, bytes: high.bytes }];
      return [{ start: address, bytes: low.bytes }, ...below];
    }
  }
  throw notFound(pid);
}

/**
 * Finds the memory that the guest can receive. In a restored VM it is a mapping of the base's end, in which returned
 * memory has become anonymous. In a booted VM it is anonymous: the first space below the boot memory that is large enough,
 * of which the slots without memory cannot be accessed.
 */
async function findHotplugMemory(
  pid: number,
  { memoryBase, memoryMib, hotplugMib }: VmSpec,
  boot: readonly MemoryRegion[],
): Promise<MemoryRegion> {
  const bytes = hotplugSizeMib(hotplugMib) * 2 ** 20;
  const offset = memoryMib * 2 ** 20;
  const mapped = (await mappingsOf(pid, memoryBase)).find((part) => part.offset >= offset);
  if (mapped !== undefined) return { start: mapped.start - (mapped.offset - offset), bytes };
  const lowest = Math.min(...boot.map(({ start }) => start));
  const start = spaceBelow(lowest, bytes, await readFile(`/proc/${pid}/maps`, "utf8"));
  if (start === undefined) throw notFound(pid);
  return { start, bytes };
}

/** The start of the first aligned space of `bytes` below `limit` that is all anonymous, in a text of proc_pid_maps(5). Pure. */
export function spaceBelow(limit: number, bytes: number, maps: string): number | undefined {
  for (const { start, end } of joined(anonymousMappings(maps), limit).toReversed()) {
    const aligned = Math.floor((end - bytes) / alignment) * alignment;
    if (aligned >= start) return aligned;
  }
  return undefined;
}

/** Firecracker's `GUEST_MEMORY_ALIGNMENT`. */
const alignment = 2 * 2 ** 20;

/** Ranges of neighbouring mappings that end at or below `limit`, the lowest first. */
function joined(mappings: readonly AddressRange[], limit: number): readonly AddressRange[] {
  const ranges: AddressRange[] = [];
  for (const { start, end } of mappings) {
    if (start >= limit) break;
    const last = ranges.at(-1);
    const cut = Math.min(end, limit);
    if (last?.end === start) ranges[ranges.length - 1] = { start: last.start, end: cut };
    else ranges.push({ start, end: cut });
  }
  return ranges;
}

interface AddressRange {
  readonly start: number;
  readonly end: number;
}

const pageBytes = 4096;

/** The regions of the memory, by their places in its file. */
function regionsOf(memoryMib: number): readonly { readonly offset: number; readonly bytes: number }[] {
  const bytes = memoryMib * 2 ** 20;
  const low = Math.min(bytes, maxLowBytes);
  return [{ offset: 0, bytes: low }, ...(bytes > low ? [{ offset: low, bytes: bytes - low }] : [])];
}

/** Private mappings without a file, of a text of proc_pid_maps(5). Those that cannot be written cannot be read either. */
function anonymousMappings(maps: string): readonly (AddressRange & { readonly isWritable: boolean })[] {
  return maps.split("\n").flatMap((line) => {
    const [, start = "", end = "", rights] =
      /^([0-9a-f]+)-([0-9a-f]+) (rw-p|---p) 00000000 00:00 0 *$/.exec(line) ?? [];
    if (rights === undefined) return [];
    return [{ start: Number.parseInt(start, 16), end: Number.parseInt(end, 16), isWritable: rights === "rw-p" }];
  });
}

function notFound(pid: number): SandboxError {
  return new SandboxError("unavailable", `the guest's memory was not found in process ${pid}`);
}
