import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, suite, test } from "node:test";
import * as sandboxes from "@opensandbox/wire/e2b/sandboxes.ts";
import * as snapshots from "@opensandbox/wire/e2b/snapshots.ts";
import * as templates from "@opensandbox/wire/e2b/templates.ts";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import { pathOf, type Route } from "@opensandbox/wire/route.ts";
import { openDatabase } from "#database/database.ts";
import { startForTest, type Json, type TestControlPlane } from "#testing/start-for-test.ts";
import { envdCalls } from "./envd/serve-envd.ts";

// Calls every route of the E2B interface with the key of an organization that owns none of the named resources. A new
// route is covered once one of the modules exports it.

const routes = [sandboxes, snapshots, templates]
  .flatMap((module) => Object.values(module) as unknown[])
  .filter((value): value is Route => typeof value === "object" && value !== null && "path" in value);
const named = routes.filter(({ path }) => path.includes(":"));
assert.ok(named.length > 12 && routes.length > 20);

/** Bodies of routes that accept no empty one. */
const bodies: Readonly<Record<string, object>> = {
  e2bSetTimeout: { timeout: 60 },
  e2bStartBuild: { fromImage: "base" },
};

const marker = "of-the-owner";

suite("another organization, by the interface of E2B", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  const owner = "osb_of-the-owner";
  const stranger = "osb_of-the-stranger";
  let id: string;
  let snapshotId: string;
  let template: { readonly templateID: string; readonly buildID: string };

  before(async () => {
    world = stack.use(await startForTest({ storedKeys: true }));
    const database = await openDatabase(world.database);
    for (const [org, key] of [
      ["org-owner", owner],
      ["org-stranger", stranger],
    ] as const) {
      await database.insertInto("organizations").values({ id: org, name: org, created_at: 0 }).execute();
      const keyHash = createHash("sha256").update(key).digest("hex");
      const row = { id: org, organization_id: org, name: org, key_hash: keyHash, key_prefix: "osb_", created_at: 0 };
      await database.insertInto("api_keys").values(row).execute();
    }
    await database.destroy();
    ({ sandboxID: id } = await as(owner, "POST", "/v2/sandboxes", { metadata: { a: marker }, envVars: { B: marker } }));
    const snapshot = await as(owner, "POST", `/sandboxes/${id}/snapshots`, { name: marker });
    snapshotId = (snapshot.snapshotID as string).replace(":default", "");
    template = await as(owner, "POST", "/v3/templates", { name: marker });
  });
  after(() => stack.disposeAsync());

  async function as(key: string, method: string, path: string, body?: object): Promise<Json> {
    const [status, reply] = await world.ask(method, path, body, { headers: { "x-api-key": key } });
    assert.ok(status < 300, `${method} ${path}: ${status} ${JSON.stringify(reply)}`);
    return reply;
  }

  async function asStranger(route: Route, names: Record<string, string>): Promise<{ status: number; text: string }> {
    const response = await fetch(`${world.url}${pathOf(route, names)}`, {
      method: route.method,
      headers: { "x-api-key": stranger },
      ...(route.method === "GET" ? {} : { body: JSON.stringify(bodies[route.name] ?? {}) }),
    });
    let text = await response.text();
    for (const name of Object.values(names)) text = text.replaceAll(name, "NAME");
    return { status: response.status, text };
  }

  for (const route of named) {
    test(`${route.method} ${route.path} answers as if the resource did not exist`, async () => {
      const hash = "00aa";
      const isTemplate = route.path.includes("/templates/");
      const unknown = "00000000-0000-4000-8000-000000000000";
      const owned = isTemplate
        ? [snapshotId, template.templateID, marker].map((of) => ({ id: of, alias: of, build: template.buildID, hash }))
        : [{ id }];
      const nothing = isTemplate ? { id: "none", alias: "none", build: unknown, hash } : { id: newSandboxId() };
      const expected = await asStranger(route, nothing);
      for (const names of owned) {
        const answer = await asStranger(route, names);
        assert.deepEqual(answer, expected);
        assert.equal(answer.status, 404, answer.text);
        assert.ok(!answer.text.includes(marker), answer.text);
      }
    });
  }

  for (const route of routes.filter(({ method, path }) => method === "GET" && !path.includes(":"))) {
    test(`${route.method} ${route.path} shows nothing of the owner's`, async () => {
      const { status, text } = await asStranger(route, { id });
      assert.equal(status, 200);
      assert.ok(!text.includes("NAME") && !text.includes(marker), text);
    });
  }

  for (const call of envdCalls) {
    test(`${call} of the owner's sandbox is refused without its token`, async () => {
      const [method = "", path = ""] = call.split(" ");
      for (const token of [{}, { "x-access-token": "" }, { "x-access-token": owner }]) {
        const response = await fetch(`${world.url}${path}?path=/note`, {
          method,
          headers: { "x-api-key": stranger, "e2b-sandbox-id": id, ...token },
        });
        assert.equal(response.status, 401);
        assert.ok(!(await response.text()).includes(marker));
      }
    });
  }

  test("no sandbox starts from a snapshot or template of another organization", async () => {
    for (const templateID of [snapshotId, `${snapshotId}:default`, marker, template.templateID]) {
      const init = { headers: { "x-api-key": stranger } };
      const [status] = await world.ask("POST", "/v2/sandboxes", { templateID }, init);
      assert.equal(status, 404);
    }
  });

  test("tags of another organization's template are neither set nor removed", async () => {
    const init = { headers: { "x-api-key": stranger } };
    for (const name of [marker, template.templateID]) {
      assert.equal((await world.ask("POST", "/templates/tags", { target: name, tags: ["x"] }, init))[0], 404);
      assert.equal((await world.ask("DELETE", "/templates/tags", { name, tags: ["default"] }, init))[0], 404);
    }
  });

  test("afterwards the resources of the owner are unchanged", async () => {
    const detail = await as(owner, "GET", `/sandboxes/${id}`);
    assert.deepEqual([detail.state, detail.metadata], ["running", { a: marker }]);
    assert.deepEqual((await as(owner, "GET", `/snapshots?sandboxID=${id}`)).length, 1);
  });
});
