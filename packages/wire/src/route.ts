import { z } from "zod";
import { SandboxError } from "./errors.ts";

/** One operation of a wire, as data: server, clients and the OpenAPI document read the same value. */
export interface Route<Body = unknown, Query = unknown, Reply = unknown> {
  readonly method: "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH";
  /** With `:name` where a parameter stands. */
  readonly path: string;
  /** Also the name of the operation in the OpenAPI document. */
  readonly name: string;
  readonly summary: string;
  readonly description?: string;
  /** `key`: needs an API key. */
  readonly access: "key" | "open";
  readonly query?: z.ZodType<Query>;
  /** A JSON body; absent: none, or bytes. */
  readonly body?: z.ZodType<Body>;
  /** Largest JSON body in bytes; absent: {@link defaultBodyLimit}. */
  readonly bodyLimit?: number;
  readonly bytesIn?: true;
  /** Status of a success. */
  readonly status: number;
  /** A JSON reply; absent: none, or bytes. */
  readonly reply?: z.ZodType<Reply>;
  readonly bytesOut?: true;
  /** Further replies that are no errors, such as 202. */
  readonly otherReplies?: Readonly<Record<number, { readonly description: string; readonly reply?: z.ZodType }>>;
}

/** Of a JSON body, in bytes. */
export const defaultBodyLimit = 2 ** 20;

/** The path of a route with its parameters filled in. */
export function pathOf(route: Pick<Route, "path">, parameters: Readonly<Record<string, string>> = {}): string {
  return route.path.replaceAll(/:(\w+)/g, (_, name: string) => {
    const value = parameters[name];
    if (value === undefined) throw new Error(`${route.path} needs ${name}`);
    return encodeURIComponent(value);
  });
}

/**
 * What came from outside, as the schema's type, or `invalid_argument` with the first thing that is wrong. Names are
 * found whatever their case and null counts as absent, as clients written in Go expect; unknown fields are ignored.
 */
export function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const named = schema instanceof z.ZodObject ? withNamesOf(schema, value) : value;
  // Takes part only where the schema has no message of its own.
  const result = schema.safeParse(named, { error: (issue) => `${nameOf(issue.path)}: ${inEnglish(issue)}` });
  if (result.success) return result.data;
  const message = result.error.issues[0]?.message ?? "the request is not valid";
  throw new SandboxError("invalid_argument", message, { cause: result.error });
}

function withNamesOf(schema: z.ZodObject, value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const names = new Map(Object.keys(schema.shape).map((name) => [name.toLowerCase(), name]));
  const found: Record<string, unknown> = {};
  for (const [key, field] of Object.entries(value)) {
    const name = names.get(key.toLowerCase());
    // The exact spelling wins over another one of the same name.
    if (name !== undefined && field !== null && (key === name || !Object.hasOwn(found, name))) found[name] = field;
  }
  return found;
}

const english = z.locales.en().localeError;

function inEnglish(issue: Parameters<typeof english>[0]): string {
  const message = english(issue);
  return typeof message === "string" ? message : (message?.message ?? "not valid");
}

function nameOf(path: readonly PropertyKey[] | undefined): string {
  return path === undefined || path.length === 0 ? "the request body" : path.map(String).join(".");
}
