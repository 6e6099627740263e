import { changeSets, type NftTable, readSet, type SetChange } from "#host/kernel/netfilter.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { ipv4Bytes } from "@opensandbox/wire/ipv4.ts";
import { sets } from "../namespace-rules.ts";

/** Answers have at most this time to live, so that a guest asks again while its address is still admitted. */
export const maxTtlSeconds = 600;

/**
 * An address stays admitted this much longer than its time to live. At least {@link maxTtlSeconds}: when an address is in
 * both sets and is resolved again, the earlier of the two elements has ended by then.
 */
const graceSeconds = 600;

/** Concurrent addresses of one sandbox: more than its names have, and cheap for a host with a thousand sandboxes. */
const maxAddresses = 8192;

/**
 * The addresses of one sandbox's allowed names, here and as elements of the kernel's sets. Older kernels cannot extend an
 * element's timeout, and a removal makes every processor wait. So there are two sets: when an address ends too early in
 * one, the other takes it over.
 */
export class PinnedNames {
  readonly #where: NftTable;
  /** When each address of a name ends, in milliseconds of the monotonic clock. */
  readonly #names = new Map<string, Map<number, number>>();
  /** When the element of each set ends. */
  readonly #addresses = new Map<number, [number, number]>();
  /** Addresses that an earlier worker admitted, for names that are no longer known. */
  readonly #inherited = new Map<number, number>();
  #forgetAt = 0;

  constructor(where: NftTable) {
    this.#where = where;
  }

  /** Admits the addresses from now on. @throws `quota_exceeded` when there are too many */
  pin(name: string, addresses: readonly number[], ttlSeconds: number): void {
    const now = performance.now();
    this.#forgetEnded(now);
    const needed = now + Math.min(ttlSeconds, maxTtlSeconds) * 1000;
    const short = addresses.filter((address) => this.#endOf(address) < needed);
    if (this.#addresses.size + short.length > maxAddresses) {
      throw new SandboxError("quota_exceeded", `more than ${maxAddresses} addresses of allowed names`);
    }
    if (short.length > 0) this.#prolong(short, now, needed + graceSeconds * 1000);
    const ofName = this.#names.get(name) ?? new Map<number, number>();
    for (const address of addresses) ofName.set(address, this.#endOf(address));
    this.#names.set(name, ofName);
  }

  /** Whether `address` was an answer for `name` not long ago. */
  has(name: string, address: number): boolean {
    const now = performance.now();
    const until = this.#names.get(name)?.get(address) ?? this.#inherited.get(address) ?? 0;
    return until > now;
  }

  /** Forgets the names that are no longer allowed. Returns the changes of the sets that this needs. */
  retain(allowsName: (name: string) => boolean): SetChange[] {
    const now = performance.now();
    const gone = [...this.#names.keys()].filter((name) => !allowsName(name));
    if (gone.length === 0 && this.#inherited.size === 0) return [];
    for (const name of gone) this.#names.delete(name);
    this.#inherited.clear();
    const kept = new Map<number, number>();
    for (const addresses of this.#names.values()) {
      for (const [address, until] of addresses) kept.set(address, Math.max(until, kept.get(address) ?? 0));
    }
    this.#addresses.clear();
    const changes: SetChange[] = sets.pinned.map((set) => ({ set, flush: true }));
    for (const [address, until] of kept) {
      if (until <= now) continue;
      this.#addresses.set(address, [until, 0]);
      changes.push(elementOf(0, address, until - now));
    }
    return changes;
  }

  /** Reads the elements that an earlier worker has left in the sets. */
  inherit(): void {
    const now = performance.now();
    for (const [index, set] of sets.pinned.entries()) {
      for (const { key, expiresInMs = 0 } of readSet(this.#where, set)) {
        const address = key.readUInt32BE();
        const ends = this.#addresses.get(address) ?? [0, 0];
        ends[index === 0 ? 0 : 1] = now + expiresInMs;
        this.#addresses.set(address, ends);
        this.#inherited.set(address, Math.max(...ends));
      }
    }
  }

  #endOf(address: number): number {
    return Math.max(...(this.#addresses.get(address) ?? [0, 0]));
  }

  #prolong(addresses: readonly number[], now: number, until: number): void {
    const ends = addresses.map((address): [number, [number, number]] => {
      const [first, second] = this.#addresses.get(address) ?? [0, 0];
      return [address, first <= second ? [until, second] : [first, until]];
    });
    changeSets(
      this.#where,
      ends.map(([address, [first]]) => elementOf(first === until ? 0 : 1, address, until - now)),
    );
    for (const [address, both] of ends) this.#addresses.set(address, both);
  }

  /** Bounds memory; ended entries have no effect otherwise. */
  #forgetEnded(now: number): void {
    if (now < this.#forgetAt) return;
    this.#forgetAt = now + forgetEveryMs;
    for (const [name, addresses] of this.#names) {
      for (const [address, until] of addresses) if (until <= now) addresses.delete(address);
      if (addresses.size === 0) this.#names.delete(name);
    }
    for (const address of this.#addresses.keys()) {
      if (this.#endOf(address) <= now) this.#addresses.delete(address);
    }
  }
}

const forgetEveryMs = 10_000;

function elementOf(set: 0 | 1, address: number, timeoutMs: number): SetChange {
  return { set: sets.pinned[set], add: [{ key: ipv4Bytes(address), timeoutMs: Math.ceil(timeoutMs) }] };
}
