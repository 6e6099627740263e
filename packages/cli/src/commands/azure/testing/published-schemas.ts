import { readFileSync } from "node:fs";
import { join } from "node:path";

/** The part of JSON Schema that tools/azure-schemas/generate.ts writes. */
interface Schema {
  readonly type?: "object" | "array" | "string" | "number" | "boolean";
  readonly $ref?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: Schema | false;
  readonly items?: Schema;
  readonly enum?: readonly unknown[];
  readonly pattern?: string;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minimum?: number;
  readonly maximum?: number;
}

interface Published {
  /** The packages of npm, of the scope @azure, that the schemas were compiled from. */
  readonly packages: readonly string[];
  /** The schema of a request body by the type of the resource, or by method and action. */
  readonly bodies: Readonly<Record<string, string>>;
  readonly $defs: Readonly<Record<string, Schema>>;
}

const published = JSON.parse(readFileSync(join(import.meta.dirname, "published-schemas.json"), "utf8")) as Published;

/** What Microsoft's published models say against a request body; undefined when they have nothing against it. */
export function publishedProblem(type: string, body: unknown): string | undefined {
  const name = published.bodies[type];
  return name === undefined ? `${type}: no model is known` : problemOf(body, { $ref: `#/$defs/${name}` }, "body");
}

function problemOf(value: unknown, schema: Schema, at: string): string | undefined {
  if (schema.$ref !== undefined) {
    const found = published.$defs[schema.$ref.replace("#/$defs/", "")];
    return found === undefined ? `${at}: ${schema.$ref} is missing` : problemOf(value, found, at);
  }
  if (schema.enum !== undefined && !schema.enum.includes(value)) return `${at}: ${String(value)} is no value of it`;
  switch (schema.type) {
    case undefined:
      return undefined;
    case "object":
      if (typeof value !== "object" || value === null || Array.isArray(value)) return `${at}: is not an object`;
      return problemOfObject(value as Readonly<Record<string, unknown>>, schema, at);
    case "array":
      if (!Array.isArray(value)) return `${at}: is not an array`;
      return firstOf(value.map((item, index) => problemOf(item, schema.items ?? {}, `${at}[${index}]`)));
    case "string":
      if (typeof value !== "string") return `${at}: is not a string`;
      return problemOfText(value, schema, at);
    case "number": {
      if (typeof value !== "number") return `${at}: is not a number`;
      const { minimum = -Infinity, maximum = Infinity } = schema;
      return value < minimum || value > maximum ? `${at}: ${value} is out of bounds` : undefined;
    }
    case "boolean":
      return typeof value === "boolean" ? undefined : `${at}: is not a boolean`;
  }
}

function problemOfObject(value: Readonly<Record<string, unknown>>, schema: Schema, at: string): string | undefined {
  const { properties = {}, required = [], additionalProperties = false } = schema;
  const missing = required.find((name) => value[name] === undefined);
  if (missing !== undefined) return `${at}.${missing}: is missing`;
  return firstOf(
    Object.entries(value).map(([name, inside]) => {
      const known = properties[name] ?? additionalProperties;
      return known === false ? `${at}.${name}: is unknown` : problemOf(inside, known, `${at}.${name}`);
    }),
  );
}

function problemOfText(value: string, { pattern, minLength = 0, maxLength = Infinity }: Schema, at: string) {
  if (value.length < minLength || value.length > maxLength) return `${at}: has ${value.length} characters`;
  return pattern === undefined || new RegExp(pattern).test(value) ? undefined : `${at}: does not match ${pattern}`;
}

function firstOf(problems: readonly (string | undefined)[]): string | undefined {
  return problems.find((problem) => problem !== undefined);
}
