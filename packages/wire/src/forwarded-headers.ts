/** Headers of a connection, which a proxy must not forward (RFC 9110 section 7.6.1). */
export const hopByHopHeaders: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

/**
 * The headers to forward: all but the hop-by-hop headers and those that `Connection` names. Raw headers, as in Node:
 * alternating names and values, in order and as written. Pure.
 */
export function forwardedHeaders(raw: readonly string[]): string[] {
  const connection = pairsOf(raw).filter(([name]) => name.toLowerCase() === "connection");
  const named = connection.flatMap(([, value]) => optionsOf(value));
  return withoutHeaders(raw, new Set([...hopByHopHeaders, ...named]));
}

/** Raw headers without those of some names, which are in lower case. Pure. */
export function withoutHeaders(raw: readonly string[], names: ReadonlySet<string>): string[] {
  return pairsOf(raw)
    .filter(([name]) => !names.has(name.toLowerCase()))
    .flat();
}

/**
 * The headers of a request to forward, with the framing of its body. A body of unknown length is chunked for any
 * method. A request without a body says so when its method usually has one.
 */
export function forwardedRequestHeaders(method: string, raw: readonly string[]): string[] {
  const has = (wanted: string): boolean => pairsOf(raw).some(([name]) => name.toLowerCase() === wanted);
  const forwarded = forwardedHeaders(raw);
  if (has("transfer-encoding")) return [...forwarded, "Transfer-Encoding", "chunked"];
  if (has("content-length") || !["POST", "PUT", "PATCH"].includes(method)) return forwarded;
  return [...forwarded, "Content-Length", "0"];
}

function pairsOf(raw: readonly string[]): [name: string, value: string][] {
  return Array.from({ length: Math.floor(raw.length / 2) }, (_, index) => [raw[2 * index]!, raw[2 * index + 1]!]);
}

function optionsOf(value: string): string[] {
  return value.split(",").map((option) => option.trim().toLowerCase());
}
