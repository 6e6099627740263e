import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ApiClient } from "./api-client.ts";

/** Starts the configured VM from its kernel. */
export async function startInstance(api: ApiClient): Promise<void> {
  await api.request({ method: "PUT", path: "/actions", body: { action_type: "InstanceStart" } });
}

/** Stops the vCPUs; the VM may be stopped already. */
export async function pause(api: ApiClient): Promise<void> {
  await api.request({ method: "PATCH", path: "/vm", body: { state: "Paused" } });
}

/** Starts the vCPUs; they may run already. */
export async function resume(api: ApiClient): Promise<void> {
  await api.request({ method: "PATCH", path: "/vm", body: { state: "Resumed" } });
}

/** Whether the vCPUs run. */
export async function isRunning(api: ApiClient): Promise<boolean> {
  const { state } = (await api.request({ method: "GET", path: "/" })) as { readonly state: string };
  return state === "Running";
}

/** Loads a VM from the state of its devices. It is paused, and its memory is a private mapping of `memory`. */
export async function loadSnapshot(api: ApiClient, deviceState: string, memory: string): Promise<void> {
  const body = {
    snapshot_path: deviceState,
    mem_backend: { backend_type: "File", backend_path: memory },
    resume_vm: false,
  };
  await api.request({ method: "PUT", path: "/snapshot/load", body });
}

export interface HotplugStatus {
  readonly requestedMib: number;
  readonly presentMib: number;
}

/** Reads the state of the device for memory hotplug. Undefined: the VM has none. */
export async function queryHotplug(api: ApiClient): Promise<HotplugStatus | undefined> {
  try {
    const status = (await api.request({ method: "GET", path: "/hotplug/memory" })) as {
      readonly requested_size_mib: number;
      readonly plugged_size_mib: number;
    };
    return { requestedMib: status.requested_size_mib, presentMib: status.plugged_size_mib };
  } catch (error) {
    // Firecracker's `FindDeviceError::DeviceNotFound`. A VM of an earlier snapshot may lack the device.
    if (error instanceof SandboxError && error.code === "internal" && /Device not found/.test(error.message)) {
      return undefined;
    }
    throw error;
  }
}

/** Asks the guest to have `mib` of the hotplug device. The guest's driver must be up. */
export async function requestHotplug(api: ApiClient, mib: number): Promise<void> {
  await api.request({ method: "PATCH", path: "/hotplug/memory", body: { requested_size_mib: mib } });
}

/** No file can be made here: the last directory is a device. */
const nowhere = "/dev/null/memory";

/**
 * Writes the state of the devices, without memory, to a new file. Firecracker has no request for that: it writes the
 * devices' state, then the whole memory. Here it cannot open the memory's file and refuses, when the state is complete.
 * The worker copies what has changed of the memory itself (docs/decisions/0027-firecracker-is-the-second-hypervisor.md).
 */
export async function saveDevicesState(api: ApiClient, file: string): Promise<void> {
  const body = { snapshot_type: "Full", snapshot_path: file, mem_file_path: nowhere };
  try {
    await api.request({ method: "PUT", path: "/snapshot/create", body });
  } catch (error) {
    if (error instanceof SandboxError && error.code === "internal" && isOpenOfMemory(error.message)) return;
    throw error;
  }
  throw new SandboxError("internal", `Firecracker has written the memory of a VM to ${nowhere}`);
}

/** Firecracker's `CreateSnapshotError::MemoryBackingFile("open", ...)`. */
function isOpenOfMemory(message: string): boolean {
  return /Cannot perform open on the memory backing file/.test(message);
}
