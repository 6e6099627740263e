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

/** Loads a VM from the state of its devices. It is paused, and its memory is a private mapping of `memory`. */
export async function loadSnapshot(api: ApiClient, deviceState: string, memory: string): Promise<void> {
  const body = {
    snapshot_path: deviceState,
    mem_backend: { backend_type: "File", backend_path: memory },
    resume_vm: false,
  };
  await api.request({ method: "PUT", path: "/snapshot/load", body });
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
