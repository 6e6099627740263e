import assert from "node:assert/strict";
import { test } from "node:test";
import { openApiDocument } from "@opensandbox/wire/public/openapi.ts";
import { publicRoutes } from "@opensandbox/wire/public/routes.ts";
import { startForTest } from "../testing/start-for-test.ts";
import { documentationPage } from "./documentation-page.ts";

test("every route and every schema has its place on the page, and every link on it leads somewhere", () => {
  const page = documentationPage(publicRoutes, openApiDocument());
  const places = new Set([...page.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id));
  for (const { name } of publicRoutes) assert.ok(places.has(name), name);
  const links = [...page.matchAll(/href="#([^"]+)"/g)].map(([, target]) => target);
  assert.ok(links.length > publicRoutes.length);
  for (const target of links) assert.ok(places.has(target), `${target} is nowhere`);
});

test("what the schemas say cannot become markup", () => {
  const page = documentationPage(
    [{ method: "GET", path: "/a", name: "a", summary: "<script>alert(1)</script>", access: "open", status: 204 }],
    { paths: {} },
  );
  assert.equal(page.includes("<script>"), false);
});

test("the page is served to whoever asks", async () => {
  await using world = await startForTest();
  const reply = await fetch(`${world.url}/docs`);
  assert.equal(reply.status, 200);
  assert.match(reply.headers.get("content-type") ?? "", /^text\/html/);
  assert.match(await reply.text(), /createSandbox/);
});
