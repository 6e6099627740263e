import { z } from "zod";
import type { Route } from "../route.ts";
import { version } from "../version.ts";
import { ErrorReply } from "./error-reply.ts";
import { StreamStart } from "./guests/execs.ts";
import { publicRoutes } from "./routes.ts";
import { routeScopes } from "./scopes.ts";

type Json = Record<string, unknown>;

/** The OpenAPI 3.1 document of the public API, generated from its routes and schemas. */
export function openApiDocument(): Json {
  const schemas: Json = {};
  const paths: Record<string, Json> = {};
  for (const route of publicRoutes) {
    const path = route.path.replaceAll(/:(\w+)/g, "{$1}");
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operationOf(route, schemas) };
  }
  // The first message of a WebSocket, which no operation refers to.
  schemaOf(StreamStart, schemas, "input");
  return {
    openapi: "3.1.0",
    info: {
      title: "OpenSandbox",
      version,
      description: "Real Linux machines for agents and users.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    paths,
    components: {
      schemas: Object.fromEntries(Object.entries(schemas).toSorted(([a], [b]) => (a < b ? -1 : 1))),
      securitySchemes: { apiKey: { type: "apiKey", in: "header", name: "X-API-Key" } },
    },
  };
}

function operationOf(route: Route, schemas: Json): Json {
  return {
    operationId: route.name,
    summary: route.summary,
    ...(route.description === undefined ? {} : { description: route.description }),
    // The scope that the key must have: OpenAPI 3.1 lists the required roles of an API key here.
    security: route.access === "key" ? [{ apiKey: [routeScopes[route.name]] }] : [],
    ...parametersOf(route, schemas),
    ...requestBodyOf(route, schemas),
    responses: responsesOf(route, schemas),
  };
}

function parametersOf(route: Route, schemas: Json): Json {
  const inPath = [...route.path.matchAll(/:(\w+)/g)].map(([, name]) => ({
    name,
    in: "path",
    required: true,
    schema: { type: "string" },
  }));
  const inQuery = route.query === undefined ? [] : queryParametersOf(route.query, schemas);
  return inPath.length + inQuery.length === 0 ? {} : { parameters: [...inPath, ...inQuery] };
}

function queryParametersOf(query: z.ZodType, schemas: Json): Json[] {
  const { properties = {}, required = [] } = schemaOf(query, schemas, "input") as {
    properties?: Record<string, Json>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, { description, ...schema }]) => ({
    name,
    in: "query",
    required: required.includes(name),
    ...(description === undefined ? {} : { description }),
    schema,
  }));
}

function requestBodyOf(route: Route, schemas: Json): Json {
  if (route.bytesIn) return { requestBody: { required: true, content: bytes } };
  if (route.body === undefined) return {};
  return { requestBody: { content: { "application/json": { schema: schemaOf(route.body, schemas, "input") } } } };
}

function responsesOf(route: Route, schemas: Json): Json {
  const success = {
    description: route.status === 101 ? "The stream begins." : "Done.",
    ...(route.bytesOut ? { content: bytes } : jsonContent(route.reply, schemas)),
  };
  const others = Object.entries(route.otherReplies ?? {}).map(([status, { description, reply }]) => [
    status,
    { description, ...jsonContent(reply, schemas) },
  ]);
  const failure = { description: "The request failed.", ...jsonContent(ErrorReply, schemas) };
  return { [route.status]: success, ...Object.fromEntries(others), default: failure };
}

const bytes = { "application/octet-stream": {} };

function jsonContent(schema: z.ZodType | undefined, schemas: Json): Json {
  if (schema === undefined) return {};
  return { content: { "application/json": { schema: schemaOf(schema, schemas, "output") } } };
}

/** The schema, or a reference to it when it is named. Named schemas are collected in `schemas`. */
function schemaOf(schema: z.ZodType, schemas: Json, io: "input" | "output"): Json {
  const { $schema: _, $defs, ...own } = z.toJSONSchema(schema, { io, reused: "inline" }) as Json & { $defs?: Json };
  for (const [name, definition] of Object.entries($defs ?? {})) keep(name, definition as Json, schemas);
  const name = schema.meta()?.id;
  if (name === undefined) return withReferences(own);
  // A schema that others refer to is already among the definitions.
  if ($defs?.[name] === undefined) keep(name, own, schemas);
  return { $ref: `#/components/schemas/${name}` };
}

function keep(name: string, definition: Json, schemas: Json): void {
  const { id: _, ...schema } = definition;
  schemas[name] = withReferences(schema);
}

function withReferences(schema: Json): Json {
  return JSON.parse(JSON.stringify(schema).replaceAll("#/$defs/", "#/components/schemas/")) as Json;
}
