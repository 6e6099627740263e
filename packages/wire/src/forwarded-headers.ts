/** What belongs to one connection and not to the message that crosses it (RFC 9110 section 7.6.1). */
const hopByHop = new Set([
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
 * The headers of a message as they go on over another connection: those of the connection are left out, also those that
 * its `Connection` header names. Raw headers, as Node has them: names and values in turn, in order, as they were
 * written. Pure.
 */
export function forwardedHeaders(raw: readonly string[]): string[] {
  const pairs = pairsOf(raw);
  const named = pairs.filter(([name]) => name.toLowerCase() === "connection").flatMap(([, value]) => optionsOf(value));
  const left = new Set([...hopByHop, ...named]);
  return pairs.filter(([name]) => !left.has(name.toLowerCase())).flat();
}

/**
 * The headers of a request as they go on, with what says where its body ends. A body without an end that is known
 * beforehand must be sent in chunks, whatever the method; a request without a body says so where one is expected.
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
