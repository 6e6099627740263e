import { isIPv6 } from "node:net";
import type { Clock } from "../../clock.ts";

/** The number of unknown names that one address may request within a window. */
const maxUnknown = 60;
const windowMs = 60_000;
/** How long a sandbox that answered stays reachable for every client, even for an address over its limit. */
const knownMs = 600_000;
// Bounds the memory: the oldest entries are dropped first.
const maxAddresses = 10_000;
const maxKnown = 10_000;

/**
 * Stops an address from finding open previews by trying names. An address over its limit is refused for every sandbox
 * that has not answered lately, so that a refusal does not reveal whether the name exists. Behind a proxy all clients
 * share one address, which is why sandboxes in use stay reachable.
 */
export class UnknownNames {
  readonly #clock: Pick<Clock, "elapsed">;
  readonly #unknown = new Map<string, { count: number; readonly since: number }>();
  readonly #known = new Map<string, number>();

  constructor(clock: Pick<Clock, "elapsed">) {
    this.#clock = clock;
  }

  isRefused(address: string, sandboxId: string): boolean {
    const now = this.#clock.elapsed();
    const entry = this.#unknown.get(networkOf(address));
    if (entry === undefined || now - entry.since >= windowMs || entry.count < maxUnknown) return false;
    return now - (this.#known.get(sandboxId) ?? Number.NEGATIVE_INFINITY) >= knownMs;
  }

  /** Records that the address requested an unknown name. */
  miss(address: string): void {
    const network = networkOf(address);
    const now = this.#clock.elapsed();
    const entry = this.#unknown.get(network);
    if (entry !== undefined && now - entry.since < windowMs) entry.count++;
    else put(this.#unknown, network, { count: 1, since: now }, maxAddresses);
  }

  /** Records that a request reached the sandbox. */
  hit(sandboxId: string): void {
    put(this.#known, sandboxId, this.#clock.elapsed(), maxKnown);
  }
}

function put<Key, Value>(map: Map<Key, Value>, key: Key, value: Value, maxSize: number): void {
  // Deleted and inserted again, so that the map is in order of use.
  map.delete(key);
  map.set(key, value);
  const [oldest] = map.keys();
  if (map.size > maxSize && oldest !== undefined) map.delete(oldest);
}

/** An IPv6 client owns a whole /64, so its addresses count as one. */
function networkOf(address: string): string {
  if (!isIPv6(address) || address.includes(".")) return address;
  const [head = "", tail = ""] = address.split("::");
  const groups = head === "" ? [] : head.split(":");
  const rest = tail === "" ? [] : tail.split(":");
  const zeros = Array.from({ length: Math.max(0, 8 - groups.length - rest.length) }, () => "0");
  return [...groups, ...zeros, ...rest].slice(0, 4).join(":");
}
