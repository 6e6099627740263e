/**
 * What a slot's network is made of, as input for `ip -batch` and `nft -f`. Pure.
 *
 * Each machine has a namespace of its own in which everything has the same name and address, so that a restored
 * guest need not change; only the pair of cables out of it is numbered.
 *
 * ```
 * guest 10.0.2.15 -- tap0 10.0.2.2 [namespace osb-N] up0 10.213.x.y+2 -- osbvN 10.213.x.y+1 [host] -- internet
 * ```
 */
export interface SlotNames {
  readonly namespace: string;
  readonly hostCable: string;
  readonly hostAddress: string;
  readonly outerAddress: string;
}

/** The guest's side, which QEMU's own user network has as well. */
export const inner = { gateway: "10.0.2.2", guest: "10.0.2.15", nameServer: "10.0.2.3", prefix: 24 } as const;

export const outerNetwork = "10.213.0.0/16";

/** The beginning of every numbered cable's name on the host. */
const cablePrefix = "osbv";

/** The one table that the host gets; it has the same number of rules however many slots there are. */
export const hostTable = "inet opensandbox";

export function slotNames(slot: number): SlotNames {
  const address = (host: number): string => `10.213.${(slot * 4) >> 8}.${((slot * 4) & 255) + host}`;
  return {
    namespace: `osb-${slot}`,
    hostCable: `${cablePrefix}${slot}`,
    hostAddress: address(1),
    outerAddress: address(2),
  };
}

export function hostCommands({ namespace, hostCable, hostAddress }: SlotNames): string {
  return [
    `link add ${hostCable} type veth peer name up0 netns ${namespace}`,
    `addr add ${hostAddress}/30 dev ${hostCable}`,
    `link set ${hostCable} up`,
  ].join("\n");
}

export function namespaceCommands({ hostAddress, outerAddress }: SlotNames): string {
  return [
    "link set lo up",
    `addr add ${outerAddress}/30 dev up0`,
    "link set up0 up",
    `route add default via ${hostAddress}`,
    "tuntap add tap0 mode tap vnet_hdr",
    `addr add ${inner.gateway}/${inner.prefix} dev tap0`,
    `addr add ${inner.nameServer}/32 dev tap0`,
    "link set tap0 up",
  ].join("\n");
}

/** In the namespace: names are resolved by `resolver`, everything leaves with the slot's outer address. */
export function namespaceRules(resolver: string): string {
  return `
table ip opensandbox {
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr ${inner.nameServer} meta l4proto { tcp, udp } th dport 53 dnat to ${resolver}
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "up0" masquerade
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    iifname "tap0" ip saddr ${inner.guest} oifname "up0" accept
    iifname "up0" oifname "tap0" ct state established,related accept
  }
}
`;
}

/** Ranges that a guest has no business in: private, link-local, carrier, loopback, multicast, a cloud's own. */
const forbidden = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "168.63.129.16/32",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.168.0.0/16",
  "224.0.0.0/3",
];

/** On the host: out to the internet and to the resolver, and nowhere else. Replaces an earlier version of itself. */
export function hostRules(resolver: string): string {
  return `
table ${hostTable}
delete table ${hostTable}
table ${hostTable} {
  chain forward {
    type filter hook forward priority filter - 1; policy accept;
    iifname "${cablePrefix}*" ip daddr ${resolver} meta l4proto { tcp, udp } th dport 53 accept
    iifname "${cablePrefix}*" ip daddr { ${forbidden.join(", ")} } reject with icmpx type admin-prohibited
    iifname "${cablePrefix}*" meta nfproto ipv6 drop
    oifname "${cablePrefix}*" ct state established,related accept
    oifname "${cablePrefix}*" drop
  }
  chain input {
    type filter hook input priority filter - 1; policy accept;
    iifname "${cablePrefix}*" ct state established,related accept
    iifname "${cablePrefix}*" ip daddr ${resolver} meta l4proto { tcp, udp } th dport 53 accept
    iifname "${cablePrefix}*" drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr ${outerNetwork} oifname != "${cablePrefix}*" masquerade
  }
}
`;
}
