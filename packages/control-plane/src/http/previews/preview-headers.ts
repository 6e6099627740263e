import type { IncomingMessage } from "node:http";
import type { TLSSocket } from "node:tls";
import { forwardedHeaders, forwardedRequestHeaders } from "@opensandbox/wire/forwarded-headers.ts";
import { hostnameOf } from "#previews/preview-target.ts";

const tokenHeader = "x-oc-preview-token";

/** The texts that a request offers as the token of a preview. */
export function credentialsOf({ headers }: IncomingMessage): string[] {
  const own = headers[tokenHeader];
  const bearer = /^Bearer +(\S+)$/i.exec(headers.authorization ?? "")?.[1];
  return [...(typeof own === "string" ? [own] : []), ...(bearer === undefined ? [] : [bearer])];
}

/** How the credentials of this server are recognised. */
export interface Credentials {
  /** The preview needs a token, which an `Authorization` header may carry. */
  readonly hasToken: boolean;
  /** Whether a text is a key of this server's API. */
  readonly isApiKey: (text: string) => boolean;
  /** Further headers for this server, in lower case. */
  readonly ownHeaders: ReadonlySet<string>;
}

/**
 * The headers of a request as the server in a sandbox receives them: unchanged, plus the request's origin, minus any
 * credential of this server. A client may send its API key to a preview by mistake, or because a custom domain
 * once was the API's own name.
 */
export function previewHeaders(request: IncomingMessage, credentials: Credentials): string[] {
  const { method = "", rawHeaders, headers, socket } = request;
  const forwardedFor = [headers["x-forwarded-for"], socket.remoteAddress].flat().filter(Boolean).join(", ");
  const scheme = headers["x-forwarded-proto"] ?? ((socket as TLSSocket).encrypted ? "https" : "http");
  const bearsToken = credentials.hasToken && headers[tokenHeader] === undefined;
  return [
    ...pairsOf(forwardedRequestHeaders(method, rawHeaders)).flatMap(([name, value]) => {
      const lowerCase = name.toLowerCase();
      if (lowerCase.startsWith("x-forwarded-") || credentials.ownHeaders.has(lowerCase)) return [];
      if (lowerCase === tokenHeader && credentials.hasToken) return [];
      if (lowerCase === "authorization" && bearsToken) return [];
      const kept = withoutKeys(lowerCase, value, credentials.isApiKey);
      return kept === undefined ? [] : [name, kept];
    }),
    ...["X-Forwarded-For", forwardedFor],
    ...["X-Forwarded-Proto", String(scheme)],
    ...["X-Forwarded-Host", headers.host ?? ""],
  ];
}

/** The value of a header without keys of this server's API. Undefined: the header must not be passed on. */
function withoutKeys(name: string, value: string, isApiKey: (text: string) => boolean): string | undefined {
  switch (name) {
    case "cookie": {
      const cookies = value
        .split(";")
        .filter((cookie) => !isApiKey(decoded(cookie.slice(cookie.indexOf("=") + 1).trim())));
      return cookies.length === 0 ? undefined : cookies.join(";").trim();
    }
    case "authorization":
      return isApiKey(value.replace(/^\S+ +/, "")) || isApiKey(value) ? undefined : value;
    case "referer":
      return withoutKeyParameters(value, isApiKey);
    default:
      return isApiKey(value) ? undefined : value;
  }
}

/** A path or URL without the query parameters that are keys of this server's API. The rest stays byte for byte. */
export function withoutKeyParameters(url: string, isApiKey: (text: string) => boolean): string {
  const at = url.indexOf("?");
  if (at === -1) return url;
  const query = url
    .slice(at + 1)
    .split("&")
    .filter((parameter) => !isApiKey(decoded(parameter.slice(parameter.indexOf("=") + 1).replaceAll("+", " "))))
    .join("&");
  return query === "" ? url.slice(0, at) : `${url.slice(0, at)}?${query}`;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Clears the cookies of a whole domain, and so those of the other sandboxes in it. */
const reachesOthers = new Set(["clear-site-data"]);

/**
 * The headers of a sandbox's answer as the client receives them: unchanged, except that no cookie is set beyond the host
 * name of the request, because sibling names belong to other sandboxes.
 */
export function answerHeaders(rawHeaders: readonly string[], host: string | undefined): string[] {
  return pairsOf(forwardedHeaders(rawHeaders))
    .filter(([name]) => !reachesOthers.has(name.toLowerCase()))
    .map(([name, value]) => [name, name.toLowerCase() === "set-cookie" ? cookieFor(value, hostnameOf(host)) : value])
    .flat();
}

/** A `Set-Cookie` without its domain, which makes it the host's alone, unless the domain is the host itself. */
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
  return Array.from({ length: Math.floor(raw.length / 2) }, (_, index) => [raw[2 * index]!, raw[2 * index + 1]!]);
}
