import { join } from "node:path";

/** Sockets, pipes and files of a machine, by their names in its directory, which is Firecracker's working directory. */
export const names = {
  /** Firecracker's API. */
  api: "firecracker.sock",
  /** The monitor of the storage daemon. */
  storage: "storage.sock",
  /** Leads to AF_VSOCK sockets of the guest. */
  agent: "agent.sock",
  /** What the guest writes to its console. */
  console: "console.pipe",
  log: "firecracker.log",
  /** Firecracker's filter of system calls, as BPF. */
  filter: "system-calls.bpf",
} as const;

export function pathOf(directory: string, name: keyof typeof names): string {
  return join(directory, names[name]);
}

/** The file in the machine's directory that shows a writable disk as a raw image. */
export function diskImage(disk: string): string {
  return `${disk}.disk`;
}
