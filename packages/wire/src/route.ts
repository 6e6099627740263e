import { z } from "zod";
import { SandboxError } from "./errors.ts";

/** One operation of a wire, as data: server, clients and the OpenAPI document read the same value. */
export interface Route<Body = unknown, Query = unknown, Reply = unknown> {
  readonly method: "GET" | "POST" | "PUT" | "DELETE" | "PATCH";
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
  readonly bytesIn?: true;
  /** Status of a success. */
  readonly status: number;
  /** A JSON reply; absent: none, or bytes. */
  readonly reply?: z.ZodType<Reply>;
  readonly bytesOut?: true;
  /** Further replies that are no errors, such as 202. */
  readonly otherReplies?: Readonly<Record<number, { readonly description: string; readonly reply?: z.ZodType }>>;
}

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
  const result = schema.safeParse(schema instanceof z.ZodObject ? withNamesOf(schema, value) : value);
  if (result.success) return result.data;
  throw new SandboxError("invalid_argument", explain(result.error), undefined, { cause: result.error });
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

function explain(error: z.ZodError): string {
  const issue = error.issues[0];
  if (issue === undefined) return "the request is not valid";
  // Messages of our own name the field themselves; zod's begin with a capital letter and do not.
  const own = !/^(Invalid|Too|Unrecognized|Expected)/.test(issue.message);
  if (own) return issue.message;
  if (issue.path.length === 0) return `the request body must be a JSON object: ${lowerFirst(issue.message)}`;
  return `${issue.path.join(".")}: ${lowerFirst(issue.message)}`;
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}
