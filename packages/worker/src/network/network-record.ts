import { type NftTable, readSet } from "#host/netfilter.ts";
import { formatIpv4 } from "@opensandbox/wire/ipv4.ts";
import type { NetworkRefusal } from "@opensandbox/wire/worker/worker.ts";
import { refusedForMs, sets } from "./namespace-rules.ts";

/** Names and web requests that are kept; the oldest go first. Refused packets the kernel keeps by itself. */
const maxEntries = 500;

/** One thing that a sandbox was refused, before it is counted. */
export type Refusal = Omit<NetworkRefusal, "at" | "count">;

/** What a sandbox was refused, each thing once with how often. */
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

  /** The last hour's, the newest first. */
  list(): NetworkRefusal[] {
    return [...this.#entries.values(), ...this.#refusedPackets()].toSorted((a, b) => (a.at < b.at ? 1 : -1));
  }

  #refusedPackets(): NetworkRefusal[] {
    const now = Date.now();
    return readSet(this.#where, sets.refused).map(({ key, expiresInMs = 0, packets = 1 }) => ({
      // Every packet begins its element's time anew.
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
