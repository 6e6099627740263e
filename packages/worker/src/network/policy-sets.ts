import type { SetChange, SetElement } from "#host/kernel/netfilter.ts";
import { formatIpv4, ipv4Bytes, parseIpv4, type Range } from "@opensandbox/wire/ipv4.ts";
import { inner } from "./address-plan.ts";
import { sets } from "./namespace-rules.ts";
import type { CompiledPolicy } from "./policy.ts";

/** A policy as the sets of a namespace hold it. */
export interface AppliedPolicy {
  readonly policy: CompiledPolicy;
  /** The number of the policy, and the mark of the connections that it has admitted. */
  readonly epoch: number;
  /** The sandbox uses secrets, so its TLS connections pass the proxy. */
  readonly usesSecrets: boolean;
}

/**
 * The changes of the sets from one policy to the next, for one transaction. A removal makes the kernel wait for all
 * processors, so only present elements are removed. Pure.
 */
export function policyChanges(from: AppliedPolicy, to: AppliedPolicy): SetChange[] {
  return [
    ...presence(sets.open, from.policy.open, to.policy.open),
    ...presence(sets.inspected, isInspected(from.policy), isInspected(to.policy)),
    ...presence(sets.secrets, from.usesSecrets, to.usesSecrets),
    ...ranges(sets.allowed, from.policy.allowedRanges, to.policy.allowedRanges),
    ...ranges(sets.denied, from.policy.deniedRanges, to.policy.deniedRanges),
    ...epoch(from.epoch, to.epoch),
  ];
}

/** Whether the network is open except for some names. */
function isInspected({ open, namesDecide }: CompiledPolicy): boolean {
  return open && namesDecide;
}

const guest: SetElement = { key: addressKey(inner.guest) };

function presence(set: string, before: boolean, after: boolean): SetChange[] {
  if (before === after) return [];
  return [after ? { set, add: [guest] } : { set, remove: [guest] }];
}

function ranges(set: string, before: readonly Range[], after: readonly Range[]): SetChange[] {
  if (textOf(before) === textOf(after)) return [];
  return [
    ...(before.length > 0 ? [{ set, flush: true } as const] : []),
    ...(after.length > 0 ? [{ set, add: after.flatMap(interval) }] : []),
  ];
}

/** An interval is its first address and the one after its last, if that exists. */
function interval({ first, last }: Range): SetElement[] {
  const start = { key: ipv4Bytes(first) };
  return last === 2 ** 32 - 1 ? [start] : [start, { key: ipv4Bytes(last + 1), intervalEnd: true }];
}

function epoch(before: number, after: number): SetChange[] {
  if (before === after) return [];
  return [
    ...(before === 0 ? [] : [{ set: sets.current, flush: true } as const, { set: sets.marks, flush: true } as const]),
    { set: sets.current, add: [{ key: markBytes(after) }] },
    { set: sets.marks, add: [{ ...guest, value: markBytes(after) }] },
  ];
}

export function addressKey(address: string): Buffer {
  return ipv4Bytes(parseIpv4(address) ?? 0);
}

/** Marks are in the host's byte order. */
function markBytes(mark: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(mark);
  return bytes;
}

function textOf(ranges: readonly Range[]): string {
  return ranges.map(({ first, last }) => `${formatIpv4(first)}-${formatIpv4(last)}`).join();
}
