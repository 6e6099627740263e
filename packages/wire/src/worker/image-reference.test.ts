import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { isSandboxError } from "#errors.ts";
import { formatImageReference, isImageReference, parseImageReference } from "./image-reference.ts";

suite("references to images of registries", () => {
  const digest = `sha256:${"a".repeat(64)}`;
  const spellings = {
    "python:3.12": "docker.io/library/python:3.12",
    "bitnami/redis": "docker.io/bitnami/redis:latest",
    "docker.io/python": "docker.io/library/python:latest",
    "ghcr.io/x/y:tag": "ghcr.io/x/y:tag",
    "GHCR.io/x/y": "ghcr.io/x/y:latest",
    "localhost/a": "localhost/a:latest",
    "localhost:5000/a/b:1": "localhost:5000/a/b:1",
    "[::1]:5000/a": "[::1]:5000/a:latest",
    [`node@${digest}`]: `docker.io/library/node@${digest}`,
    [`node:22@${digest}`]: `docker.io/library/node@${digest}`,
  };
  for (const [text, full] of Object.entries(spellings)) {
    test(`${text.slice(0, 30)} is ${full.slice(0, 40)}`, () => {
      assert.ok(isImageReference(text));
      assert.equal(formatImageReference(parseImageReference(text)), full);
      assert.equal(formatImageReference(parseImageReference(full)), full);
    });
  }

  const wrong = [
    ...["a b:1", "a:", "a:b c", "Upper/case:1", "../a:1", "a//b:1", "a/b/:1", "/a:1", "a@sha256:12", "a@b@c"],
    ...["a:../..", "-a.b/c", "a/\u0000b", `x/${"a".repeat(256)}`, "a.b:99999999/c", `a@md5:${"0".repeat(32)}`],
  ];
  for (const text of wrong) {
    test(`${JSON.stringify(text.slice(0, 40))} is refused`, () => {
      assert.throws(
        () => parseImageReference(text),
        (error) => isSandboxError(error, "invalid_argument"),
      );
    });
  }

  test("a recipe's name is no reference", () => assert.equal(isImageReference("default"), false));
});
