import { SandboxError } from "@opensandbox/wire/errors.ts";
import { inNetworkNamespace } from "./libc.ts";
import { attribute, exchangeNetlink, netlinkFlags, netlinkMessage } from "./netlink.ts";
import { interfaceIndex } from "./sockets.ts";

export interface Neighbour {
  readonly device: string;
  /** IPv4, four bytes. */
  readonly address: Uint8Array;
  readonly mac: Uint8Array;
}

/**
 * Makes a permanent neighbour entry: the namespace's kernel neither asks for the address nor accepts other answers. It
 * does what `ip neigh replace ... nud permanent` does, without a process. Layout: linux/neighbour.h.
 */
export function setNeighbour(namespace: string, { device, address, mac }: Neighbour): void {
  inNetworkNamespace(namespace, () => {
    const header = Buffer.alloc(12);
    header.writeUInt8(AF_INET, 0);
    header.writeInt32LE(interfaceIndex(device), 4);
    header.writeUInt16LE(permanent, 8);
    const payload = Buffer.concat([
      header,
      attribute(attributes.address, address),
      attribute(attributes.linkAddress, mac),
    ]);
    const flags = netlinkFlags.ack | netlinkFlags.create | netlinkFlags.replace;
    exchangeNetlink(netlinkRoute, undefined, netlinkMessage(newNeighbour, flags, payload, 1), {
      refuse: (errno) => {
        throw new SandboxError("unavailable", `cannot set the neighbour of ${device}: ${errno}`);
      },
    });
  });
}

const AF_INET = 2;
const netlinkRoute = 0;
const newNeighbour = 28;
const permanent = 0x80;
const attributes = { address: 1, linkAddress: 2 } as const;
