import type { IncomingMessage } from "node:http";
import type { TLSSocket } from "node:tls";
import { forwardedHeaders, forwardedRequestHeaders } from "@opensandbox/wire/forwarded-headers.ts";
import { hostnameOf } from "#previews/preview-target.ts";

const tokenHeader = "x-oc-preview-token";

/** What a request offers as a preview's token. */
export function credentialsOf({ headers }: IncomingMessage): string[] {
  const own = headers[tokenHeader];
  const bearer = /^Bearer +(\S+)$/i.exec(headers.authorization ?? "")?.[1];
  return [...(typeof own === "string" ? [own] : []), ...(bearer === undefined ? [] : [bearer])];
}

/** Keys of this server, which are nothing for a program in a sandbox. */
const apiKeyPattern = /^osb_[0-9a-f]{64}$/;

/**
 * A request's headers as a server in a sandbox gets them: as they came, with where they came from, and without what is
 * meant for this server. An `Authorization` that may be the preview's token is not passed on.
 */
export function previewHeaders(request: IncomingMessage, { hasToken }: { readonly hasToken: boolean }): string[] {
  const { method = "", rawHeaders, headers, socket } = request;
  const isOurs = (name: string, value: string): boolean =>
    (name === tokenHeader && hasToken) ||
    (name === "authorization" && hasToken && headers[tokenHeader] === undefined) ||
    (name === "x-api-key" && apiKeyPattern.test(value)) ||
    name.startsWith("x-forwarded-");
  const forwardedFor = [headers["x-forwarded-for"], socket.remoteAddress].flat().filter(Boolean).join(", ");
  const scheme = headers["x-forwarded-proto"] ?? ((socket as TLSSocket).encrypted ? "https" : "http");
  return [
    ...pairsOf(forwardedRequestHeaders(method, rawHeaders))
      .filter(([name, value]) => !isOurs(name.toLowerCase(), value))
      .flat(),
    ...["X-Forwarded-For", forwardedFor],
    ...["X-Forwarded-Proto", String(scheme)],
    ...["X-Forwarded-Host", headers.host ?? ""],
  ];
}

/** Which would reach the other sandboxes of the domain: it empties the cookies of all of it. */
const reachesOthers = new Set(["clear-site-data"]);

/**
 * The headers of a sandbox's answer as its caller gets them: as they are, but no cookie is set for more than the host
 * name that was asked, since the names beside it are other sandboxes.
 */
export function answerHeaders(rawHeaders: readonly string[], host: string | undefined): string[] {
  return pairsOf(forwardedHeaders(rawHeaders))
    .filter(([name]) => !reachesOthers.has(name.toLowerCase()))
    .map(([name, value]) => [name, name.toLowerCase() === "set-cookie" ? cookieFor(value, hostnameOf(host)) : value])
    .flat();
}

/** A cookie without a domain is the host's alone. */
export function cookieFor(cookie: string, hostname: string): string {
  return cookie
    .split(";")
    .filter((part, index) => {
      const [name = "", domain = ""] = part.split("=");
      return (
        index === 0 ||
        name.trim().toLowerCase() !== "domain" ||
        hostnameOf(domain.trim().replace(/^\./, "")) === hostname
      );
    })
    .join(";");
}

function pairsOf(raw: readonly string[]): [name: string, value: string][] {
  return Array.from({ length: raw.length / 2 }, (_, index) => [raw[2 * index]!, raw[2 * index + 1]!]);
}
