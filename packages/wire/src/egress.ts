import { SandboxError } from "./errors.ts";
import { parseRange, type Range } from "./ipv4.ts";

/**
 * Egress rules as users write them: domains, names below a domain (`*.example.com`), addresses and ranges. `deny` takes
 * precedence.
 */
export interface EgressRules {
  /** Absent: the whole internet. Empty: nothing. */
  readonly allow?: readonly string[] | undefined;
  readonly deny?: readonly string[] | undefined;
  readonly headers?: HeaderRules | undefined;
}

/**
 * Headers that HTTPS requests of a sandbox get outside it, by host: a name (`api.example.com`), or the names below one
 * (`*.example.com`). They replace headers of the same names.
 */
export type HeaderRules = Readonly<Record<string, Readonly<Record<string, string>>>>;

/** The network policy of a sandbox. */
export interface NetworkPolicy {
  readonly enabled: boolean;
  readonly egress?: EgressRules | undefined;
}

/**
 * The ranges that no guest may reach, whatever its rules: private, link-local, carrier, loopback, multicast and reserved
 * ranges, and the address of Azure's host services.
 */
export const forbiddenRanges = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "168.63.129.16/32",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "224.0.0.0/3",
] as const;

export const forbidden: readonly Range[] = forbiddenRanges.map((text) => parseRange(text)!);

/** One parsed entry of the rules. */
export type EgressTarget =
  | { readonly kind: "range"; readonly range: Range }
  | { readonly kind: "name"; readonly name: string; readonly below: boolean };

/** Parses the rules. @throws `invalid_argument` with the first wrong entry */
export function parseEgress(rules: EgressRules): {
  readonly allow: readonly EgressTarget[] | undefined;
  readonly deny: readonly EgressTarget[];
} {
  return { allow: rules.allow?.map(parseAllowed), deny: (rules.deny ?? []).map(parseTarget) };
}

function parseAllowed(text: string): EgressTarget {
  const target = parseTarget(text);
  if (target.kind === "name") return target;
  const { first, last } = target.range;
  if (!forbidden.some((range) => range.first <= first && last <= range.last)) return target;
  throw invalid(text, "private and reserved addresses cannot be reached from a sandbox");
}

function parseTarget(text: string): EgressTarget {
  const trimmed = text.trim();
  const range = parseRange(trimmed);
  if (range !== undefined) return { kind: "range", range };
  if (trimmed.includes(":")) throw invalid(text, "IPv6 addresses and ports are not supported");
  const below = trimmed.startsWith("*.");
  const name = normalName(below ? trimmed.slice(2) : trimmed);
  if (name === undefined) {
    throw invalid(text, "it must be a domain, *.domain, an IPv4 address or a range such as 203.0.113.0/24");
  }
  return { kind: "name", name, below };
}

/** A domain name in lower case and ASCII, without the final dot. Undefined: the text is not a domain name. */
export function normalName(text: string): string | undefined {
  const url = `http://${text.replace(/\.$/, "")}/`;
  if (/[\s/?#@:%\\[\]]/.test(text) || !URL.canParse(url)) return undefined;
  const name = new URL(url).hostname;
  if (name.length > 253 || /^[\d.]*$/.test(name)) return undefined;
  const labels = name.split(".");
  return labels.every((label) => /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/.test(label)) ? name : undefined;
}

function invalid(text: string, why: string): SandboxError {
  return new SandboxError("invalid_argument", `egress: "${text}": ${why}`);
}
