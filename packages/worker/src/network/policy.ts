import { type EgressTarget, forbidden, type NetworkPolicy, parseEgress } from "@opensandbox/wire/egress.ts";
import { type HeaderRule, parseHeaderRules } from "@opensandbox/wire/header-rules.ts";
import { isInRanges, mergeRanges, parseIpv4, type Range } from "@opensandbox/wire/ipv4.ts";

/** A policy in the form in which packets, names and web requests are judged. Pure. */
export interface CompiledPolicy {
  readonly policy: NetworkPolicy;
  /** Everything on the internet is allowed unless it is denied. */
  readonly open: boolean;
  /** Names decide, so every web connection must say which name it is for. */
  readonly namesDecide: boolean;
  readonly allowedRanges: readonly Range[];
  readonly deniedRanges: readonly Range[];
  /** Headers of requests, by host. */
  readonly headers: readonly HeaderRule[];
  /** Whether a name may be resolved and connected to. The name is in lower case, without the last dot. */
  allowsName(name: string): boolean;
}

/** The policy of a network that has no sandbox yet: nothing leaves. */
export const closedPolicy: NetworkPolicy = { enabled: false };

/** @throws `invalid_argument` naming the first entry that is wrong */
export function compilePolicy(policy: NetworkPolicy): CompiledPolicy {
  const { allow, deny } = parseEgress(policy.egress ?? {});
  const open = policy.enabled && allow === undefined;
  const denied = nameMatcher(deny);
  const allowed = allow === undefined ? () => true : nameMatcher(allow);
  return {
    policy,
    open,
    namesDecide: policy.enabled && (!open || deny.some(({ kind }) => kind === "name")),
    allowedRanges: policy.enabled ? rangesOf(allow ?? []) : [],
    deniedRanges: policy.enabled ? rangesOf(deny) : [],
    headers: parseHeaderRules(policy.egress?.headers ?? {}),
    allowsName: (name) => policy.enabled && allowed(name) && !denied(name),
  };
}

/** The name that a connection is for, or the reason why it does not say exactly one. */
export type ClaimedName = { readonly name: string } | { readonly name?: undefined; readonly reason: string };

/**
 * Why a policy does not let a web connection through; undefined when it does. Where names decide, a connection without
 * exactly one name is refused, unless its address is allowed.
 */
export function refusalOf(policy: CompiledPolicy, claimed: ClaimedName, address: string): string | undefined {
  if (!policy.policy.enabled) return "the network is off";
  if (!policy.namesDecide || isInRanges(parseIpv4(address) ?? 0, policy.allowedRanges)) return undefined;
  if (claimed.name === undefined) return claimed.reason;
  return policy.allowsName(claimed.name) ? undefined : "the network policy does not allow this name";
}

/** Whether guests may reach an address. A name that resolves to any other address is a trap. */
export function isPublicIpv4(address: number): boolean {
  return !isInRanges(address, forbidden);
}

function rangesOf(targets: readonly EgressTarget[]): Range[] {
  return mergeRanges(targets.flatMap((target) => (target.kind === "range" ? [target.range] : [])));
}

function nameMatcher(targets: readonly EgressTarget[]): (name: string) => boolean {
  const names = targets.flatMap((target) => (target.kind === "name" ? [target] : []));
  const exact = new Set(names.filter(({ below }) => !below).map(({ name }) => name));
  const below = new Set(names.filter(({ below }) => below).map(({ name }) => name));
  return (name) => exact.has(name) || parentsOf(name).some((parent) => below.has(parent));
}

/** `a.b.c` is below `b.c` and `c`. */
function parentsOf(name: string): string[] {
  const labels = name.split(".");
  return labels.slice(1).map((_, index) => labels.slice(index + 1).join("."));
}
