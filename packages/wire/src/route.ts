import { z } from "zod";
import { SandboxError } from "./errors.ts";

/** One operation of the API as data, for server, clients and the OpenAPI document alike. */
export interface Route<Body = unknown, Query = unknown, Reply = unknown> {
  readonly method: "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH";
  /** Parameters are written as `:name`. */
  readonly path: string;
  /** The operationId in the OpenAPI document. */
  readonly name: string;
  readonly summary: string;
  readonly description?: string;
  /** `key`: requires an API key. */
  readonly access: "key" | "open";
  readonly query?: z.ZodType<Query>;
  /** The schema of a JSON body. Absent: no body, or bytes. */
  readonly body?: z.ZodType<Body>;
  /** The largest JSON body in bytes. Absent: {@link defaultBodyLimit}. */
  readonly bodyLimit?: number;
  readonly bytesIn?: true;
  /** The status of a success. */
  readonly status: number;
  /** The schema of a JSON reply. Absent: no reply, or bytes. */
  readonly reply?: z.ZodType<Reply>;
  readonly bytesOut?: true;
  /** Further successful replies, such as 202. */
  readonly otherReplies?: Readonly<Record<number, { readonly description: string; readonly reply?: z.ZodType }>>;
}

/** The default limit of a JSON body in bytes. */
export const defaultBodyLimit = 2 ** 20;

/** The path of a route with its parameters. */
export function pathOf(route: Pick<Route, "path">, parameters: Readonly<Record<string, string>> = {}): string {
  return route.path.replaceAll(/:(\w+)/g, (_, name: string) => {
    const value = parameters[name];
    if (value === undefined) throw new Error(`${route.path} needs the parameter ${name}`);
    return encodeURIComponent(value);
  });
}

/**
 * Validates external input. Names match in any case and null counts as absent, as clients written in Go expect; unknown
 * fields are ignored.
 * @throws `invalid_argument` with the first mistake
 */
export function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const named = schema instanceof z.ZodObject ? withNamesOf(schema, value) : value;
  // Applies only when the schema has no message of its own.
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
    // The exact spelling takes precedence over other spellings.
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
