import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, suite, test } from "node:test";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import { openDatabase } from "#database/database.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { newSshKey } from "#testing/new-ssh-key.ts";
import { startForTest, type Json, type TestControlPlane } from "#testing/start-for-test.ts";

// Calls every route of the OpenAPI document with the key of an organization that owns none of the named resources. A new
// route is covered once the document contains it.

interface Operation {
  readonly operationId: string;
  readonly parameters?: readonly { readonly in: string; readonly name: string; readonly required?: boolean }[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema?: Schema }>> };
}

type Schema = Readonly<Record<string, Json>>;

const document = JSON.parse(
  readFileSync(new URL("../../../../openapi/control-plane.json", import.meta.url), "utf8"),
) as { paths: Record<string, Record<string, Operation>>; components: { schemas: Record<string, Schema> } };

const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
);

/** A body that the schema accepts, with the required fields alone. */
function sample(schema: Schema): Json {
  const { $ref: reference, const: constant, enum: values, anyOf, oneOf, type, properties = {} } = schema;
  if (typeof reference === "string")
    return sample(document.components.schemas[reference.split("/").at(-1) ?? ""] ?? {});
  if (constant !== undefined) return constant;
  if (values !== undefined) return values[0];
  if (anyOf !== undefined || oneOf !== undefined) return sample((anyOf ?? oneOf)[0]);
  if (type === "array") return [];
  if (type === "string") return "/note";
  if (type === "integer" || type === "number") return Math.max(schema["minimum"] ?? 0, 1024);
  if (type === "boolean") return true;
  const required = (schema["required"] ?? []) as readonly string[];
  return Object.fromEntries(required.map((name) => [name, sample(properties[name] ?? {})]));
}

/** Bodies of routes with a schema that omits required combinations. A new route that answers 400 here needs one. */
const bodies: Readonly<Record<string, object>> = { setNetwork: { networkEnabled: true } };

const marker = "of-the-owner";

suite("another organization", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  const owner = "osb_of-the-owner";
  const stranger = "osb_of-the-stranger";
  /** The owner's ids, by the names of path parameters. */
  let owned: Record<string, string>;
  /** Ids of nonexistent resources, by the same names. */
  let nothing: Record<string, string>;

  before(async () => {
    world = stack.use(
      await startForTest({ storedKeys: true, masterKeys: ["a1".repeat(32)], webhooks: { resolve: async () => [] } }),
    );
    const database = await openDatabase(world.database);
    for (const [id, key] of [
      ["org-owner", owner],
      ["org-stranger", stranger],
    ] as const) {
      await database.insertInto("organizations").values({ id, name: id, created_at: 0 }).execute();
      const keyHash = createHash("sha256").update(key).digest("hex");
      const row = { id, organization_id: id, name: id, key_hash: keyHash, key_prefix: key.slice(0, 8), created_at: 0 };
      await database.insertInto("api_keys").values(row).execute();
    }
    await database.destroy();

    const create = { metadata: { a: marker }, envs: { B: marker }, alias: `alias-${marker}` };
    const { sandboxID: id } = await asOwner("POST", "/api/sandboxes", create);
    const sandbox = `/api/sandboxes/${id}`;
    await asOwner("PUT", `${sandbox}/tags`, { [marker]: marker });
    await world.call("PUT", `${sandbox}/files?path=/note`, marker, { headers: { "x-api-key": owner } });
    await asOwner("POST", `${sandbox}/preview`, { port: 8080, domain: `${marker}.example.com` });
    const { sessionID: sessionId } = await asOwner("POST", `${sandbox}/exec`, { cmd: "sleep", args: ["1000"] });
    const { execId = sessionId } = await asOwner("POST", `${sandbox}/exec/run-async`, { cmd: "sleep", args: ["1000"] });
    const { id: checkpointId } = await asOwner("POST", `${sandbox}/checkpoints`, { name: marker });
    await eventually("the checkpoint is ready", async () => {
      return (await asOwner("GET", `${sandbox}/checkpoints/${checkpointId}`)).status === "ready";
    });
    const { patch } = await asOwner("POST", `/api/sandboxes/checkpoints/${checkpointId}/patches`, { script: "true" });
    await asOwner("POST", "/api/snapshots", { name: `image-${marker}`, image: { base: "base", steps: [] } });
    const template = await asOwner("POST", "/api/templates", { name: `image-${marker}` });
    const webhook = { url: "https://receiver.example/", name: marker, sandboxId: id };
    const { id: webhookId } = await asOwner("POST", "/api/webhooks", webhook);
    const { messageId: deliveryId } = await asOwner("POST", `/api/webhooks/${webhookId}/test`);
    const { id: storeId } = await asOwner("POST", "/api/secret-stores", { name: `store-${marker}` });
    await asOwner("PUT", `/api/secret-stores/${storeId}/secrets/SECRET`, { value: marker });
    const { id: sshKeyId } = await asOwner("POST", "/api/ssh-keys", { publicKey: newSshKey(), name: marker });
    const { id: keyId } = await asOwner("POST", "/api/keys", { name: `key-${marker}` });
    owned = {
      keyId,
      sshKeyId,
      storeId,
      secretName: "SECRET",
      webhookId,
      deliveryId,
      id,
      sessionId,
      execId,
      checkpointId,
      patchId: patch.id,
      name: `image-${marker}`,
      buildId: template.builds[0].id,
      port: "8080",
    };
    nothing = {
      keyId: "00000000-0000-4000-8000-000000000000",
      sshKeyId: "00000000-0000-4000-8000-000000000000",
      storeId: "00000000-0000-4000-8000-000000000000",
      secretName: "NOTHING",
      webhookId: "wh_0000000000000000",
      deliveryId: "msg_000000000000000000000000",
      id: newSandboxId(),
      sessionId: "0123abcd",
      execId: "0123abcd",
      checkpointId: "00000000-0000-4000-8000-000000000000",
      patchId: "00000000-0000-4000-8000-000000000000",
      name: "nothing",
      buildId: "00000000-0000-4000-8000-000000000000",
      port: "8081",
    };
  });
  after(() => stack.disposeAsync());

  async function asOwner(method: string, path: string, body?: object): Promise<Json> {
    const [status, reply] = await world.ask(method, path, body, { headers: { "x-api-key": owner } });
    assert.ok(status < 300, `${method} ${path}: ${status} ${JSON.stringify(reply)}`);
    return reply;
  }

  /** The answer to the stranger, without the parts that differ between calls. */
  async function asStranger(
    { path, method, operation }: (typeof operations)[number],
    names: Readonly<Record<string, string>>,
  ): Promise<{ status: number; text: string }> {
    const filled = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => names[name] ?? assert.fail(`${path}: ${name}?`));
    const query = (operation.parameters ?? [])
      .filter((parameter) => parameter.in === "query" && parameter.required)
      .map(({ name }) => `${name}=${name === "expires" ? "4102444800" : name === "path" ? "/note" : "0".repeat(64)}`);
    const schema = operation.requestBody?.content["application/json"]?.schema;
    const json = bodies[operation.operationId] ?? (schema === undefined ? undefined : sample(schema));
    const body = json === undefined ? operation.requestBody && "bytes" : JSON.stringify(json);
    const response = await fetch(`${world.url}${filled}?${query.join("&")}`, {
      method,
      headers: { "x-api-key": stranger },
      ...(body === undefined ? {} : { body }),
      signal: AbortSignal.timeout(20_000),
    });
    let text = await response.text();
    for (const name of Object.values(names)) text = text.replaceAll(name, "NAME");
    return { status: response.status, text: text.replaceAll(/req-[0-9a-f]+/g, "REQUEST") };
  }

  const named = operations.filter(({ path }) => path.includes("{"));
  assert.ok(named.length > 60);

  for (const called of named) {
    const { method, path, operation } = called;
    test(`${method} ${path} (${operation.operationId}) answers as if the resource did not exist`, async () => {
      const answer = await asStranger(called, owned);
      assert.deepEqual(answer, await asStranger(called, nothing));
      // The published clients expect 400 of one route; a signature is checked before its sandbox is looked up.
      const expected = { createPreview: 400, downloadSigned: 403, uploadSigned: 403 }[operation.operationId] ?? 404;
      assert.equal(answer.status, expected, answer.text);
      assert.ok(!answer.text.includes(marker), answer.text);
    });
  }

  const lists = operations.filter(({ method, path }) => method === "GET" && !path.includes("{"));
  for (const called of lists.filter(({ operation }) => operation.operationId !== "listAuditEntries")) {
    test(`${called.method} ${called.path} shows nothing of the owner's`, async () => {
      const { status, text } = await asStranger(called, owned);
      assert.ok(status < 300, `${status}`);
      assert.ok(!text.includes("NAME") && !text.includes(marker), text);
    });
  }

  // The stranger's own calls name the owner's resources.
  test("GET /api/audit shows the calls of one organization", async () => {
    const { entries } = await asOwner("GET", "/api/audit?limit=1000");
    assert.deepEqual(new Set(entries.map(({ keyID }: Json) => keyID)), new Set(["org-owner"]));
    const [, page] = await world.ask("GET", "/api/audit?limit=1000", undefined, { headers: { "x-api-key": stranger } });
    assert.deepEqual(new Set(page.entries.map(({ keyID }: Json) => keyID)), new Set(["org-stranger"]));
  });

  test("afterwards the resources of the owner are unchanged", async () => {
    const { id, checkpointId, sessionId } = owned;
    const sandbox = await asOwner("GET", `/api/sandboxes/${id}`);
    assert.deepEqual([sandbox.status, sandbox.metadata], ["running", { a: marker }]);
    assert.deepEqual((await asOwner("GET", `/api/sandboxes/${id}/tags`)).tags, { [marker]: marker });
    const note = await world.call("GET", `/api/sandboxes/${id}/files?path=/note`, undefined, {
      headers: { "x-api-key": owner },
    });
    assert.equal(await note.text(), marker);
    assert.equal((await asOwner("GET", `/api/sandboxes/${id}/preview`)).length, 1);
    const sessions = (await asOwner("GET", `/api/sandboxes/${id}/exec`)) as { sessionID: string; running: boolean }[];
    assert.equal(sessions.find(({ sessionID }) => sessionID === sessionId)?.running, true);
    const checkpoint = await asOwner("GET", `/api/sandboxes/${id}/checkpoints/${checkpointId}`);
    assert.deepEqual([checkpoint.status, checkpoint.isPublic], ["ready", false]);
    assert.equal((await asOwner("GET", `/api/sandboxes/checkpoints/${checkpointId}/patches`)).length, 1);
    assert.equal((await asOwner("GET", `/api/snapshots/image-${marker}`)).status, "ready");
    assert.equal((await asOwner("GET", `/api/webhooks/${owned["webhookId"]}`)).name, marker);
    assert.equal((await asOwner("GET", "/api/ssh-keys"))[0].name, marker);
    const { data } = await asOwner("GET", `/api/webhooks/${owned["webhookId"]}/deliveries`);
    assert.ok(data.some((delivery: { id: string }) => delivery.id === owned["deliveryId"]));
  });
});
