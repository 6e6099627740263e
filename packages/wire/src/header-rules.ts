import type { HeaderRules } from "./egress.ts";
import { SandboxError } from "./errors.ts";
import { hopByHopHeaders } from "./forwarded-headers.ts";
import { matchesHost, parseSecretHosts } from "./secret-hosts.ts";

/** A name and a value. */
export type Header = readonly [name: string, value: string];

/** A parsed entry of the rules. */
export interface HeaderRule {
  /** In lower case and ASCII. */
  readonly host: string;
  readonly headers: readonly Header[];
}

const maxHosts = 64;
const maxHeaders = 32;
const maxNameLength = 128;
const maxValueLength = 4096;
/** Characters of all names and values together: policies travel and are stored whole. */
const maxLength = 32 * 1024;

/**
 * Headers that only a proxy may set: those of a connection (RFC 9110 section 7.6.1), those that say where the body ends,
 * and the one that names the server, which the proxy compares with the certificate.
 */
const reserved = new Set([...hopByHopHeaders, "content-length", "expect", "host"]);

/** A token of RFC 9110 section 5.6.2. */
const namePattern = /^[\w!#$%&'*+.^`|~-]+$/;
/** Visible ASCII, with blanks inside: no line ends, and no character that two programs may read differently. */
const valuePattern = /^(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?$/;

/** Parses the rules, those for more hosts first. @throws `invalid_argument` with the first wrong entry */
export function parseHeaderRules(rules: HeaderRules): readonly HeaderRule[] {
  const hosts = Object.entries(rules);
  if (hosts.length > maxHosts) throw invalid(`there are at most ${maxHosts} hosts`);
  let length = 0;
  const parsed = hosts.map(([text, headers]) => {
    const [host = ""] = parseSecretHosts("headers", [text]);
    const names = new Set<string>();
    const pairs = Object.entries(headers);
    if (pairs.length > maxHeaders) throw invalid(`${host} has at most ${maxHeaders} headers`);
    for (const [name, value] of pairs) {
      requireHeader(host, name, value);
      if (names.size === names.add(name.toLowerCase()).size) throw invalid(`${host} has the header ${name} twice`);
      length += name.length + value.length;
    }
    return { host, headers: pairs };
  });
  if (length > maxLength) throw invalid(`all names and values have at most ${maxLength} characters together`);
  const unique = new Set(parsed.map(({ host }) => host));
  if (unique.size < parsed.length) throw invalid("a host is given twice");
  return parsed.toSorted((one, other) => rank(one.host) - rank(other.host));
}

/** The headers for a host, in lower case and without the last dot. A rule for fewer hosts takes precedence. Pure. */
export function headersFor(rules: readonly HeaderRule[], name: string): readonly Header[] {
  const found = new Map<string, Header>();
  for (const { host, headers } of rules) {
    if (!matchesHost([host], name)) continue;
    for (const header of headers) found.set(header[0].toLowerCase(), header);
  }
  return [...found.values()];
}

/** Among the patterns that match one name, a longer one is for fewer hosts, and the name itself for one. */
function rank(host: string): number {
  return host.startsWith("*.") ? host.length : Number.MAX_SAFE_INTEGER;
}

function requireHeader(host: string, name: string, value: string): void {
  const shown = JSON.stringify(name.slice(0, maxNameLength));
  if (!namePattern.test(name) || name.length > maxNameLength) {
    throw invalid(`${host}: ${shown} is not the name of a header of at most ${maxNameLength} characters`);
  }
  if (reserved.has(name.toLowerCase())) throw invalid(`${host}: the header ${name} belongs to the connection`);
  if (!valuePattern.test(value) || value.length > maxValueLength) {
    throw invalid(
      `${host}: the value of ${name} must be visible ASCII, with blanks inside, of at most ${maxValueLength} characters`,
    );
  }
}

function invalid(message: string): SandboxError<"invalid_argument"> {
  return new SandboxError("invalid_argument", `headers: ${message}`);
}
