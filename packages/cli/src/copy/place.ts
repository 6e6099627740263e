/** One end of a copy. */
export type Place =
  | { readonly kind: "host"; readonly path: string }
  | { readonly kind: "sandbox"; readonly id: string; readonly path: string };

/**
 * `sb-1a2b3c4d:/path` is a path in a sandbox; without a path, the user's home. Write `./sb-...` for a file of this host
 * with such a name.
 */
export function placeOf(text: string): Place {
  const match = /^(sb-(?:[0-9a-f]{8}){1,2}):(.*)$/s.exec(text);
  if (match === null) return { kind: "host", path: text };
  const [, id = "", path = ""] = match;
  return { kind: "sandbox", id, path: path === "" ? "." : path };
}
