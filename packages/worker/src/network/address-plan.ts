/**
 * The addresses of a machine's network. Each machine has its own namespace. The names and addresses inside are the same
 * in every namespace, so that a restored guest need not change; only the veth pair that leads out is numbered by slot.
 *
 * ```
 * guest 10.0.2.15 -- tap0 10.0.2.2 [namespace osb-N] up0 10.213.x.y+2 -- osbvN 10.213.x.y+1 [host] -- internet
 * ```
 */
export interface SlotNames {
  readonly namespace: string;
  /** The namespace as a file. */
  readonly namespaceFile: string;
  readonly hostCable: string;
  readonly hostAddress: string;
  readonly outerAddress: string;
}

/** The guest's side of the network. QEMU's user network uses the same addresses. */
export const inner = {
  guest: "10.0.2.15",
  // The address of the device itself. Each sandbox's guest replaces it by one of its own.
  deviceMac: "52:54:00:12:34:56",
  gateway: "10.0.2.2",
  // QEMU's user network derives it from the address. The same in every namespace: a restored guest remembers it.
  gatewayMac: "52:55:0a:00:02:02",
  nameServer: "10.0.2.3",
  metadata: "169.254.169.254",
  prefix: 24,
} as const;

export const devices = { tap: "tap0", uplink: "up0" } as const;

export const outerNetwork = "10.213.0.0/16";

/** The prefix of the cables' names on the host. */
export const cablePrefix = "osbv";

/** The six bytes of a MAC address. */
export function macBytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(":", ""), "hex");
}

export function slotNames(slot: number): SlotNames {
  const address = (host: number): string => `10.213.${(slot * 4) >> 8}.${((slot * 4) & 255) + host}`;
  const namespace = `osb-${slot}`;
  return {
    namespace,
    namespaceFile: `/run/netns/${namespace}`,
    hostCable: `${cablePrefix}${slot}`,
    hostAddress: address(1),
    outerAddress: address(2),
  };
}
