import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { startForTest } from "#testing/start-for-test.ts";

test("the API page is served without a key and refers to no other host", async () => {
  await using world = await startForTest();
  const page = await fetch(`${world.url}/docs/api`);
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
  const { headers } = await fetch(`${world.url}/docs/api`);
  const policy = headers.get("content-security-policy") ?? "";
  const sources = policy.split("; ").flatMap((directive) => directive.split(" ").slice(1));
  assert.deepEqual(new Set(sources), new Set(["'none'", "'self'", "data:", "blob:"]));
  assert.match(policy, /^default-src 'none'/);
});

test("a server without a documentation site leads to the API page", async () => {
  await using world = await startForTest();
  const reply = await fetch(`${world.url}/docs`, { redirect: "manual" });
  assert.deepEqual([reply.status, reply.headers.get("location")], [302, "/docs/api"]);
});

test("the pages of the site have addresses without an ending, and no file beside the site is served", async () => {
  await using stack = new AsyncDisposableStack();
  const above = await mkdtemp(join(tmpdir(), "documentation-test-"));
  stack.defer(() => rm(above, { recursive: true }));
  const directory = join(above, "site");
  await mkdir(join(directory, "guides"), { recursive: true });
  await mkdir(join(directory, "assets"));
  await writeFile(join(above, "secret.html"), "secret");
  for (const [name, content] of [
    ["index.html", "the first page"],
    ["404.html", "no such page"],
    ["guides/quick.html", "a guide"],
    ["assets/app.1a2b.js", "export {};"],
  ] as const) {
    await writeFile(join(directory, name), content);
  }
  const world = stack.use(await startForTest({ documentationFiles: () => Promise.resolve(directory) }));
  for (const [path, status, text, caching] of [
    ["", 200, "the first page", "no-cache"],
    ["/", 200, "the first page", "no-cache"],
    ["/guides/quick", 200, "a guide", "no-cache"],
    ["/assets/app.1a2b.js", 200, "export {};", "public, max-age=31536000, immutable"],
    ["/guides/none", 404, "no such page", "no-cache"],
    ["/..%2fsecret", 404, "no such page", "no-cache"],
  ] as const) {
    const reply = await fetch(`${world.url}/docs${path}`);
    assert.deepEqual([reply.status, await reply.text(), reply.headers.get("cache-control")], [status, text, caching]);
    assert.match(reply.headers.get("content-security-policy") ?? "", /script-src 'self'; style-src 'self';/);
    assert.equal(reply.headers.get("access-control-allow-origin"), null);
  }
  assert.match(await (await fetch(`${world.url}/docs/api`)).text(), /swagger-ui/);
});

test("a site that is being built, or cannot be built, is announced as such", async () => {
  const builds: PromiseWithResolvers<string>[] = [];
  await using world = await startForTest({
    documentationFiles() {
      const build = Promise.withResolvers<string>();
      builds.push(build);
      return build.promise;
    },
  });
  const building = await fetch(`${world.url}/docs`);
  assert.deepEqual([building.status, building.headers.get("refresh")], [503, "2"]);
  assert.match(await building.text(), /is being built/);
  builds[0]?.reject(new SandboxError("unavailable", "the generator is <not> installed"));
  const failed = await fetch(`${world.url}/docs`);
  assert.deepEqual([failed.status, failed.headers.get("refresh")], [503, null]);
  assert.match(await failed.text(), /the generator is &lt;not> installed/);
  const again = await fetch(`${world.url}/docs`);
  assert.deepEqual([again.status, again.headers.get("refresh"), builds.length], [503, "2", 2]);
});
