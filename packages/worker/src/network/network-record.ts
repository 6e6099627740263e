import { type NftTable, readSet } from "#host/kernel/netfilter.ts";
import { formatIpv4 } from "@opensandbox/wire/ipv4.ts";
import type { NetworkRefusal } from "@opensandbox/wire/worker/worker.ts";
import { refusedForMs, sets } from "./namespace-rules.ts";

/** Refused names and web requests that are kept; the oldest are dropped first. The kernel keeps refused packets. */
const maxEntries = 500;

/** One refusal of a sandbox's traffic, before it is counted. */
export type Refusal = Omit<NetworkRefusal, "at" | "count">;

/** The refusals of a sandbox's traffic: each distinct one once, with a count. */
export class NetworkRecord {
  readonly #where: NftTable;
  readonly #entries = new Map<string, NetworkRefusal>();

  constructor(where: NftTable) {
    this.#where = where;
  }

  add(refusal: Refusal): void {
    const key = [refusal.protocol, refusal.host, refusal.address, refusal.port, refusal.reason].join(" ");
    const count = (this.#entries.get(key)?.count ?? 0) + 1;
    this.#entries.delete(key);
    this.#entries.set(key, { at: new Date().toISOString(), count, ...refusal });
    if (this.#entries.size > maxEntries) this.#entries.delete(this.#entries.keys().next().value ?? "");
  }

  /** The refusals of the last hour, the newest first. */
  list(): NetworkRefusal[] {
    return [...this.#entries.values(), ...this.#refusedPackets()].toSorted((a, b) => (a.at < b.at ? 1 : -1));
  }

  #refusedPackets(): NetworkRefusal[] {
    const now = Date.now();
    return readSet(this.#where, sets.refused).map(({ key, expiresInMs = 0, packets = 1 }) => ({
      // Every packet restarts its element's timeout.
      at: new Date(now - (refusedForMs - expiresInMs)).toISOString(),
      count: packets,
      protocol: protocols.get(key[0] ?? 0) ?? "icmp",
      address: formatIpv4(key.readUInt32BE(4)),
      port: key.readUInt16BE(8),
      reason: "the network policy does not allow this address",
    }));
  }
}

const protocols = new Map<number, NetworkRefusal["protocol"]>([
  [1, "icmp"],
  [6, "tcp"],
  [17, "udp"],
]);
