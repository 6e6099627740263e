import type { IncomingMessage } from "node:http";
import { normalName } from "@opensandbox/wire/egress.ts";
import type { ClaimedName } from "../policy.ts";

/**
 * The name in a TLS hello or a Host header, as policies write names; undefined when it is not a domain name. Only ASCII:
 * how a server reads other bytes differs from one to the next.
 */
export function wireName(text: string): string | undefined {
  return /^[\x21-\x7e]+$/.test(text) ? normalName(text) : undefined;
}

/** The name that a request is for. Linear in the size of its head, which Node limits to 16 KiB. */
export function hostOf({ rawHeaders, url = "" }: Pick<IncomingMessage, "rawHeaders" | "url">): ClaimedName {
  const hosts = rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1]!.toLowerCase() === "host");
  const [host] = hosts;
  if (host === undefined) return { reason: "the request does not state its host name" };
  if (hosts.length > 1) return { reason: "the request states several host names" };
  // Servers take the name from an absolute target, and not from the header (RFC 9112 section 3.2.2).
  if (!url.startsWith("/") && url !== "*") return { reason: "the request has a name in its target" };
  const name = wireName(host.replace(/:\d+$/, ""));
  return name === undefined
    ? { reason: "the request does not state its host name: its Host is not a domain name" }
    : { name };
}
