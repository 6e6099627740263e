import { join } from "node:path";

/** Sockets and the log of a machine, by their names in its directory. */
export const names = {
  /** QEMU's monitor. */
  qmp: "qmp.sock",
  /** The virtio-serial port of the guest agent. */
  agent: "agent.sock",
  log: "qemu.log",
} as const;

export function pathOf(directory: string, name: keyof typeof names): string {
  return join(directory, names[name]);
}
