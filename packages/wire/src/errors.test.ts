import assert from "node:assert/strict";
import { test } from "node:test";
import { anything, assert as assertProperty, constantFrom, oneof, property, string } from "fast-check";
import { errorCodes, errorFromWire, errorToWire, isSandboxError, SandboxError, withMessage } from "./errors.ts";

const withDetails = [
  new SandboxError("not_found", "no such file", { resource: "file", id: "/a" }),
  new SandboxError("wrong_state", "it sleeps", { resource: "sandbox", state: "hibernated", allowed: ["running"] }),
  new SandboxError("incompatible", "it is damaged", { reason: "damaged" }),
  new SandboxError("no_capacity", "the host is full", { resource: "memory", needMib: 1, freeMib: 0 }),
  new SandboxError("no_capacity", "the disk is full", { resource: "disk" }),
];

test("an error keeps its code, message and details across a wire", () => {
  const plain = new SandboxError("unavailable", "try again");
  for (const error of [plain, ...withDetails]) {
    const { code, message, details } = errorFromWire(JSON.parse(JSON.stringify(errorToWire(error))));
    assert.deepEqual({ code, message, details }, { code: error.code, message: error.message, details: error.details });
  }
});

test("a wire error whose details do not fit its code becomes internal", () => {
  for (const { code, message } of withDetails) {
    for (const details of [undefined, null, 1, {}, { resource: 1, id: "x" }, { reason: "other" }]) {
      assert.equal(errorFromWire({ code, message, details }).code, "internal");
    }
  }
});

test("reading any error of a peer never throws", () => {
  const code = oneof(string(), constantFrom(...Object.keys(errorCodes)));
  assertProperty(
    property(code, string(), anything(), (sent, message, details) => {
      const error = errorFromWire({ code: sent, message, details });
      assert.ok(isSandboxError(error));
      assert.equal(error.message, message);
      if (isSandboxError(error, "not_found")) assert.equal(typeof error.details.resource, "string");
    }),
  );
});

test("an error with another message keeps its details and names its cause", () => {
  const [error] = withDetails;
  assert.ok(error !== undefined);
  const other = withMessage(error, "sb-1: no such file");
  assert.deepEqual([other.code, other.details, other.cause], [error.code, error.details, error]);
});
