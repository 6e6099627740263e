import assert from "node:assert/strict";
import { test } from "node:test";
import { publishedProblem } from "./published-schemas.ts";

const account = "microsoft.storage/storageaccounts";
const whole = { location: "eastus", sku: { name: "Standard_LRS" }, kind: "StorageV2" };

test("a body that Microsoft's models allow has no problem", () => {
  assert.equal(publishedProblem(account, { ...whole, properties: { allowSharedKeyAccess: false } }), undefined);
});

for (const [body, problem] of [
  [{ ...whole, sku: "Standard_LRS" }, "body.sku: is not an object"],
  [{ ...whole, properties: { allowSharedKeys: false } }, "body.properties.allowSharedKeys: is unknown"],
  [{ ...whole, properties: { allowSharedKeyAccess: "no" } }, "body.properties.allowSharedKeyAccess: is not a boolean"],
  [{ ...whole, properties: { networkAcls: {} } }, "body.properties.networkAcls.defaultAction: is missing"],
  [{ ...whole, tags: ["a"] }, "body.tags: is not an object"],
  [{ ...whole, tags: { a: 1 } }, "body.tags.a: is not a string"],
] as const) {
  test(`a body is refused: ${problem}`, () => {
    assert.equal(publishedProblem(account, body), problem);
  });
}

test("a type without a model is refused", () => {
  assert.equal(publishedProblem("microsoft.web/sites", {}), "microsoft.web/sites: no model is known");
});
