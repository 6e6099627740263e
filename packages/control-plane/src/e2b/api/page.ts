import { SandboxError } from "@opensandbox/wire/errors.ts";

export interface PageOf<Item> {
  readonly items: readonly Item[];
  /** Absent on the last page. */
  readonly nextToken?: string;
}

export interface PageRequest<Item> {
  readonly limit: number;
  /** The token that the previous page returned. */
  readonly token: string | undefined;
  /** Identifies an item among those of the list. */
  readonly keyOf: (item: Item) => string;
  /** Whether an item comes after the one with this key, which need not exist any more. */
  readonly isAfter: (item: Item, key: string) => boolean;
}

/** One page of an ordered list. @throws `invalid_argument` for a token of another server */
export function pageOf<Item>(list: readonly Item[], { limit, token, keyOf, isAfter }: PageRequest<Item>): PageOf<Item> {
  const key = token === undefined || token === "" ? undefined : keyIn(token);
  const rest = key === undefined ? list : list.filter((item) => isAfter(item, key));
  const items = rest.slice(0, limit);
  const last = items.at(-1);
  // Without an item beyond it, this page is the last one.
  if (last === undefined || rest.length <= limit) return { items };
  return { items, nextToken: Buffer.from(`v1:${keyOf(last)}`).toString("base64url") };
}

function keyIn(token: string): string {
  const text = Buffer.from(token, "base64url").toString("utf8");
  if (text.startsWith("v1:")) return text.slice(3);
  throw new SandboxError("invalid_argument", "nextToken was not issued by this server: list again without it");
}
