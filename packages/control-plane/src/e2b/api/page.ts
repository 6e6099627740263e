import { SandboxError } from "@opensandbox/wire/errors.ts";

export interface PageOf<Item> {
  readonly items: readonly Item[];
  /** Absent on the last page. */
  readonly nextToken?: string;
}

export interface PageRequest<Item> {
  readonly limit: number;
  /** The token of the page before. */
  readonly token: string | undefined;
  /** Identifies an item among those of the list. */
  readonly keyOf: (item: Item) => string;
  /** Whether an item comes after the one with this key, which may have gone since. */
  readonly isAfter: (item: Item, key: string) => boolean;
}

/** One page of a list that is in order. @throws `invalid_argument` for a token of another server */
export function pageOf<Item>(list: readonly Item[], { limit, token, keyOf, isAfter }: PageRequest<Item>): PageOf<Item> {
  const key = token === undefined || token === "" ? undefined : keyIn(token);
  const rest = key === undefined ? list : list.filter((item) => isAfter(item, key));
  const items = rest.slice(0, limit);
  const last = items.at(-1);
  // One item beyond the page decides whether there is another one.
  if (last === undefined || rest.length <= limit) return { items };
  return { items, nextToken: Buffer.from(`v1:${keyOf(last)}`).toString("base64url") };
}

function keyIn(token: string): string {
  const text = Buffer.from(token, "base64url").toString("utf8");
  if (text.startsWith("v1:")) return text.slice(3);
  throw new SandboxError("invalid_argument", "nextToken is not one of this server's");
}
