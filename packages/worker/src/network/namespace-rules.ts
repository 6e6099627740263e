import { forbiddenRanges } from "@opensandbox/wire/egress.ts";
import { devices, inner } from "./address-plan.ts";

/** The share of the network that one machine may use. */
export interface NetworkLimits {
  /** Megabits a second, in each direction. */
  readonly bandwidthMbit: number;
  /** Concurrent connections. */
  readonly connections: number;
  readonly newConnectionsPerSecond: number;
  /** Packets that leave the guest, refused ones included. */
  readonly packetsPerSecond: number;
  /** New requests to the name server and the metadata service. */
  readonly newRequestsPerSecond: number;
}

export const defaultLimits: NetworkLimits = {
  bandwidthMbit: 500,
  connections: 4096,
  newConnectionsPerSecond: 500,
  packetsPerSecond: 100_000,
  newRequestsPerSecond: 200,
};

/** The name of a namespace's tables, in two families. */
export const table = "opensandbox";

/** The sets of a namespace, whose elements change while the machine runs. */
export const sets = {
  /** In the `netdev` table, unlike the others: the MAC address that frames from the guest must have. */
  macs: "macs",
  /** Holds the guest's address when everything on the internet is allowed. */
  open: "open",
  /** Holds the guest's address when names are denied: connections to the web are inspected at every address. */
  inspected: "inspected",
  /** Holds the guest's address when its sandbox uses secrets: TLS connections pass the proxy at every address. */
  secrets: "secrets",
  allowed: "allowed",
  denied: "denied",
  /** This host's own addresses. */
  host: "host",
  /** Addresses of allowed names, in two sets: an element's timeout cannot be extended, so the other set takes over. */
  pinned: ["pinned0", "pinned1"],
  /** The mark of connections that the current policy has admitted. */
  current: "current",
  /** The guest's address, with the mark for new connections. */
  marks: "marks",
  refused: "refused",
} as const;

/** The port of the web proxy in the namespace, to which inspected connections are redirected. */
export const webProxyPort = 3129;

/** How long a refusal stays on record. */
export const refusedForMs = 3_600_000;

const routedMark = 1;

/** Routes that deliver packets with {@link routedMark} locally, for any address: input for `ip -batch`. */
export const transparentRoutes = [
  `rule add fwmark ${routedMark} lookup 100`,
  "route add local 0.0.0.0/0 dev lo table 100",
];

/**
 * The rules of a namespace, the same in each. While the sets are empty, nothing leaves and no frame of the guest is
 * accepted. Every packet from the guest is judged, not only the first of its connection, so a narrower policy ends
 * connections that it does not allow.
 */
export function namespaceRules(limits: NetworkLimits): string {
  const { tap, uplink } = devices;
  return `
table netdev ${table} {
  set ${sets.macs} { type ether_addr; }
  chain from_guest {
    type filter hook ingress device "${tap}" priority filter; policy drop;
    limit rate over ${limits.packetsPerSecond}/second burst ${limits.packetsPerSecond} packets counter drop
    ether saddr != @${sets.macs} counter drop
    ether type ip ip saddr ${inner.guest} accept
    ether type arp arp saddr ether @${sets.macs} arp saddr ip ${inner.guest} accept
  }
}
table inet ${table} {
  set ${sets.open} { type ipv4_addr; }
  set ${sets.inspected} { type ipv4_addr; }
  set ${sets.secrets} { type ipv4_addr; }
  set forbidden { type ipv4_addr; flags interval; elements = { ${forbiddenRanges.join(", ")} }; }
  set ${sets.host} { type ipv4_addr; }
  set ${sets.allowed} { type ipv4_addr; flags interval; }
  set ${sets.denied} { type ipv4_addr; flags interval; }
  set ${sets.pinned[0]} { type ipv4_addr; flags timeout; }
  set ${sets.pinned[1]} { type ipv4_addr; flags timeout; }
  set ${sets.current} { type mark; }
  map ${sets.marks} { type ipv4_addr : mark; }
  set ${sets.refused} {
    type inet_proto . ipv4_addr . inet_service; flags dynamic, timeout; size 1024; timeout ${refusedForMs / 1000}s; counter;
  }

  chain web {
    type filter hook prerouting priority mangle; policy accept;
    iifname != "${tap}" accept
    meta l4proto tcp socket transparent 1 meta mark set ${routedMark} accept
    tcp dport != { 80, 443 } accept
    ip daddr @forbidden accept
    ip daddr @${sets.host} accept
    ip daddr @${sets.denied} accept
    ip saddr @${sets.secrets} tcp dport 443 goto proxy
    ip daddr @${sets.allowed} accept
    ip saddr @${sets.inspected} goto proxy
    ip daddr @${sets.pinned[0]} goto proxy
    ip daddr @${sets.pinned[1]} goto proxy
  }
  chain proxy {
    ct state new limit rate over ${limits.newConnectionsPerSecond}/second burst ${limits.newConnectionsPerSecond} packets counter drop
    ct state new ct count over ${limits.connections} counter drop
    meta l4proto tcp tproxy ip to :${webProxyPort} meta mark set ${routedMark} accept
  }
  chain input {
    type filter hook input priority filter; policy drop;
    iifname "${uplink}" ct state established,related accept
    iifname != "${tap}" drop
    meta mark ${routedMark} tcp dport { 80, 443 } accept
    ip daddr ${inner.nameServer} udp dport 53 goto service
    ct state established accept
    ip daddr ${inner.nameServer} tcp dport 53 goto service
    ip daddr ${inner.metadata} tcp dport 80 goto service
    ip daddr { ${inner.gateway}, ${inner.nameServer} } icmp type echo-request goto service
    goto refuse
  }
  chain service {
    limit rate over ${limits.newRequestsPerSecond}/second burst ${limits.newRequestsPerSecond} packets counter drop
    ct count over ${limits.connections} counter drop
    accept
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    iifname "${uplink}" oifname "${tap}" ct state established,related accept
    iifname != "${tap}" drop
    oifname != "${uplink}" goto refuse
    ct state established,related ct mark @${sets.current} accept
    ct state invalid drop
    ip daddr @forbidden goto refuse
    ip daddr @${sets.host} goto refuse
    ip daddr @${sets.denied} goto refuse
    # HTTP/3 would carry sealed texts past the proxy, so clients fall back to TCP.
    ip saddr @${sets.secrets} meta l4proto { tcp, udp } th dport 443 goto refuse
    ip daddr @${sets.allowed} goto let_out
    meta l4proto { tcp, udp } th dport 53 goto refuse
    ip saddr @${sets.open} ip saddr != @${sets.inspected} goto let_out
    # Names decide, so a packet that hides its name (HTTP/3) or bypasses the proxy is refused.
    meta l4proto { tcp, udp } th dport { 80, 443 } goto refuse
    ip saddr @${sets.open} goto let_out
    ip daddr @${sets.pinned[0]} goto let_out
    ip daddr @${sets.pinned[1]} goto let_out
    goto refuse
  }
  chain let_out {
    ct state new limit rate over ${limits.newConnectionsPerSecond}/second burst ${limits.newConnectionsPerSecond} packets counter drop
    ct state new ct count over ${limits.connections} counter goto refuse
    ct mark set ip saddr map @${sets.marks}
    accept
  }
  chain refuse {
    meta l4proto { tcp, udp } update @${sets.refused} { meta l4proto . ip daddr . th dport }
    meta l4proto icmp update @${sets.refused} { meta l4proto . ip daddr . 0 }
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }
  chain output {
    type filter hook output priority filter; policy drop;
    oifname "${tap}" accept
    meta skuid 0 accept
    ct state established,related accept
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "${uplink}" masquerade
  }
}
`;
}
