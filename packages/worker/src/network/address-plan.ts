/**
 * Every address of a machine's network. Each machine has a namespace of its own in which everything has the same name
 * and address, so that a restored guest need not change; only the pair of cables out of it is numbered by the slot.
 *
 * ```
 * guest 10.0.2.15 -- tap0 10.0.2.2 [namespace osb-N] up0 10.213.x.y+2 -- osbvN 10.213.x.y+1 [host] -- internet
 * ```
 */
export interface SlotNames {
  readonly namespace: string;
  /** Where the namespace is, as a file. */
  readonly namespaceFile: string;
  readonly hostCable: string;
  readonly hostAddress: string;
  readonly outerAddress: string;
}

/** The guest's side, which QEMU's own user network has as well. */
export const inner = {
  guest: "10.0.2.15",
  // What its device comes with. Each sandbox's guest takes another one, its own.
  deviceMac: "52:54:00:12:34:56",
  gateway: "10.0.2.2",
  // QEMU's user network makes it of the address. The same in every namespace: a restored guest remembers it.
  gatewayMac: "52:55:0a:00:02:02",
  nameServer: "10.0.2.3",
  metadata: "169.254.169.254",
  prefix: 24,
} as const;

export const devices = { tap: "tap0", uplink: "up0" } as const;

export const outerNetwork = "10.213.0.0/16";

/** The beginning of every numbered cable's name on the host. */
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
