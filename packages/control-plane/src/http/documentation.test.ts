import assert from "node:assert/strict";
import { test } from "node:test";
import { startForTest } from "#testing/start-for-test.ts";

test("the API page is served without a key and refers to no other host", async () => {
  await using world = await startForTest();
  const page = await fetch(`${world.url}/docs`);
  assert.equal(page.status, 200);
  assert.match(page.headers.get("content-type") ?? "", /^text\/html/);
  const html = await page.text();
  const references = [...html.matchAll(/(?:src|href)="([^"]*)"/g)].map(([, reference = ""]) => reference);
  assert.equal(references.length, 4);
  for (const reference of references) {
    assert.match(reference, /^\/[^/]/);
    const file = await fetch(world.url + reference);
    assert.equal(file.status, 200, reference);
    const text = await file.text();
    if (reference.endsWith(".css")) assert.doesNotMatch(text, /url\(["']?(?:https?:)?\/\/|@import/);
    if (reference.endsWith("start.js")) assert.match(text, /validatorUrl: null/);
  }
});

test("a browser may load the page's parts from this origin only, and run no inline script", async () => {
  await using world = await startForTest();
  const { headers } = await fetch(`${world.url}/docs`);
  const policy = headers.get("content-security-policy") ?? "";
  const sources = policy.split("; ").flatMap((directive) => directive.split(" ").slice(1));
  assert.deepEqual(new Set(sources), new Set(["'none'", "'self'", "data:"]));
  assert.match(policy, /^default-src 'none'/);
});
