import assert from "node:assert/strict";
import { test } from "node:test";
import { pageOf } from "./page.ts";

const request = { keyOf: String, isAfter: (item: number, key: string) => item > Number(key) };

test("pages cover a list exactly, and only the last one has no token", () => {
  const pages: (readonly number[])[] = [];
  let token: string | undefined;
  do {
    const page = pageOf([1, 2, 3, 4], { ...request, limit: 2, token });
    pages.push(page.items);
    token = page.nextToken;
  } while (token !== undefined);
  assert.deepEqual(pages, [
    [1, 2],
    [3, 4],
  ]);
});

test("a list continues when the item that its token names is gone", () => {
  const { nextToken: token } = pageOf([1, 2, 3, 4], { ...request, limit: 2, token: undefined });
  assert.deepEqual(pageOf([1, 3, 4], { ...request, limit: 2, token }).items, [3, 4]);
});

test("a token of another server is refused", () => {
  assert.throws(() => pageOf([1], { ...request, limit: 1, token: "abc" }), { code: "invalid_argument" });
});
