import { normalName } from "./egress.ts";
import { SandboxError } from "./errors.ts";

/*
 * The hosts that a secret may be sent to: names (`api.example.com`) and names below a name (`*.example.com`). Ports and
 * addresses are not hosts: a secret is sent to a server that proves its name.
 */

/** Parses the hosts of a field. @throws `invalid_argument` with the first wrong entry */
export function parseSecretHosts(field: string, hosts: readonly string[]): string[] {
  return [...new Set(hosts.map((host) => parsed(field, host)))];
}

function parsed(field: string, text: string): string {
  const trimmed = text.trim();
  const below = trimmed.startsWith("*.");
  const name = normalName(below ? trimmed.slice(2) : trimmed);
  // A secret for every host of a top-level domain is a mistake.
  if (name !== undefined && (!below || name.includes("."))) return below ? `*.${name}` : name;
  throw new SandboxError(
    "invalid_argument",
    `${field}: "${text}" is not a host: write a name such as api.example.com, or *.example.com for the names below it`,
  );
}

/** Whether a host is one of `hosts`. The name is in lower case, without the last dot. */
export function matchesHost(hosts: readonly string[], name: string): boolean {
  return hosts.some((host) => (host.startsWith("*.") ? name.endsWith(host.slice(1)) : host === name));
}

/**
 * The hosts that two lists have in common; an empty list leaves the choice to the other one. Both empty: none.
 */
export function commonHosts(one: readonly string[], other: readonly string[]): readonly string[] {
  if (one.length === 0) return other;
  if (other.length === 0) return one;
  return [...new Set([...one.filter((host) => isWithin(host, other)), ...other.filter((host) => isWithin(host, one))])];
}

/** Whether every name of the entry is one of `hosts`. */
function isWithin(host: string, hosts: readonly string[]): boolean {
  return (
    hosts.includes(host) ||
    hosts.some((outer) => outer.startsWith("*.") && host.replace(/^\*/, "").endsWith(outer.slice(1)))
  );
}
