import { join } from "node:path";

/** Files that the worker makes in a machine's directory, which is root's. */
const names = {
  /** The monitor of the storage daemon. */
  storage: "storage.sock",
  log: "firecracker.log",
  /** Firecracker's filter of system calls, as BPF. */
  filter: "system-calls.bpf",
} as const;

/**
 * Sockets and pipes that the machine's processes make in {@link ownDirectory}. A snapshot contains the name of the
 * agent's socket.
 */
export const ownNames = {
  /** Firecracker's API. */
  api: "api.sock",
  /** Leads to AF_VSOCK sockets of the guest. */
  agent: "agent.sock",
  /** What the guest writes to its console. */
  console: "console.pipe",
} as const;

export function pathOf(directory: string, name: keyof typeof names): string {
  return join(directory, names[name]);
}

/**
 * Firecracker's working directory, in the machine's directory: the only one where the machine's processes may make files,
 * links included.
 */
export function ownDirectory(directory: string): string {
  return join(directory, "own");
}

export function ownPathOf(directory: string, name: keyof typeof ownNames): string {
  return join(ownDirectory(directory), ownNames[name]);
}

/** The file in {@link ownDirectory} that shows a writable disk as a raw image. */
export function diskImage(disk: string): string {
  return `${disk}.disk`;
}
