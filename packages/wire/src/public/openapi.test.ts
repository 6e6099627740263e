import assert from "node:assert/strict";
import { test } from "node:test";
import { openApiDocument } from "./openapi.ts";

test("every schema of the OpenAPI document has a type, and every reference resolves", () => {
  const document = openApiDocument();
  const { schemas } = document["components"] as { schemas: Record<string, object> };
  const empty = Object.entries(schemas).filter(([, schema]) => "$ref" in schema);
  assert.deepEqual(empty, []);
  const references = JSON.stringify(document).matchAll(/"#\/components\/schemas\/(\w+)"/g);
  for (const [, name = ""] of references) assert.ok(Object.hasOwn(schemas, name), name);
});
