import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { QmpClient } from "../qmp/qmp-client.ts";

/** Stops the vCPUs; the VM may be stopped already. */
export async function stop(qmp: QmpClient): Promise<void> {
  await qmp.execute("stop");
}

/** Starts the vCPUs; they may run already. */
export async function cont(qmp: QmpClient): Promise<void> {
  await qmp.execute("cont");
}

/** Takes the content out of the ring buffer `device`. */
export async function readRing(qmp: QmpClient, device: string, bytes: number): Promise<string> {
  return String(await qmp.execute("ringbuf-read", { device, size: bytes, format: "utf8" }));
}

/** The VM's `RunState`, as in QEMU's QMP reference. */
export async function queryStatus(qmp: QmpClient): Promise<string> {
  const { status } = (await qmp.execute("query-status")) as { status: string };
  return status;
}

interface MemoryDevice {
  readonly id: string;
  /** Its address in the guest's physical memory. */
  readonly memaddr: number;
  /** In bytes: present, requested and possible. */
  readonly size: number;
  readonly "requested-size": number;
  readonly "max-size": number;
}

/** Reads the state of a virtio-mem device. @throws `internal` when no device has that id */
export async function queryMemoryDevice(qmp: QmpClient, id: string): Promise<MemoryDevice> {
  const devices = (await qmp.execute("query-memory-devices")) as { data: MemoryDevice }[];
  const found = devices.find(({ data }) => data.id === id)?.data;
  if (found === undefined) throw new SandboxError("internal", `QEMU has no memory device ${id}`);
  return found;
}

/** Asks the guest to plug `bytes` of a virtio-mem device. */
export async function requestMemory(qmp: QmpClient, id: string, bytes: number): Promise<void> {
  await qmp.execute("qom-set", { path: `/machine/peripheral/${id}`, property: "requested-size", value: bytes });
}

/** Translates a guest-physical address into one of the QEMU process. Only the human monitor can do that. */
export async function hostAddress(qmp: QmpClient, address: number): Promise<number> {
  const answer = String(await qmp.execute("human-monitor-command", { "command-line": `gpa2hva ${address}` }));
  const found = / is (0x[0-9a-f]+)\s*$/.exec(answer)?.[1];
  if (found === undefined) {
    throw new SandboxError("unavailable", `QEMU does not report the address of its memory: ${answer}`);
  }
  return Number(found);
}

/**
 * Writes the state of all devices, without memory and disks. The command is named after its first user and is part of
 * every x86 QEMU. `live` keeps the disks with this process.
 */
export async function saveDevicesState(qmp: QmpClient, filename: string): Promise<void> {
  await qmp.execute("xen-save-devices-state", { filename, live: true });
}

/** Prepares for reading a state: events report its end, and the stream has no memory. */
export async function expectDevicesState(qmp: QmpClient): Promise<void> {
  const capabilities = ["events", "x-ignore-shared"].map((capability) => ({ capability, state: true }));
  await qmp.execute("migrate-set-capabilities", { capabilities });
}

/** Starts to read a state; the event MIGRATION reports how that ends. */
export async function readDevicesState(qmp: QmpClient, file: string): Promise<void> {
  await qmp.execute("migrate-incoming", { uri: `file:${file}` });
}

/** The highest node of each block device that has one, by the device's path. */
export async function queryTopNodes(qmp: QmpClient): Promise<ReadonlyMap<string, string>> {
  const devices = (await qmp.execute("query-block")) as { qdev?: string; inserted?: { "node-name": string } }[];
  return new Map(
    devices.flatMap(({ qdev = "", inserted }) => (inserted === undefined ? [] : [[qdev, inserted["node-name"]]])),
  );
}
