import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { ManualClock } from "#testing/manual-clock.ts";
import { startForTest } from "#testing/start-for-test.ts";

async function setUp() {
  const clock = new ManualClock();
  const world = await startForTest({ tuning: { clock } });
  const id = await world.create();
  const sign = async (operation: "download" | "upload", body: object, headers: Record<string, string> = {}) =>
    await world.ask("POST", `/api/sandboxes/${id}/files/${operation}-url`, body, { headers });
  return { world, id, clock, sign, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() };
}

test("a file is written and read by signed URLs alone", async () => {
  await using given = await setUp();
  const path = "/home/sandbox/ä b&c?.txt";
  const [status, upload] = await given.sign("upload", { path, expiresIn: 60 });
  assert.equal(status, 200);
  assert.equal(Date.parse(upload.expiresAt), given.clock.now() + 60_000);
  assert.equal((await fetch(upload.url, { method: "PUT", body: "content" })).status, 204);
  const [, download] = await given.sign("download", { path });
  const url = new URL(download.url);
  assert.equal(url.pathname, `/api/sandboxes/${given.id}/files/download`);
  assert.deepEqual([...url.searchParams.keys()], ["path", "expires", "signature"]);
  assert.equal(url.searchParams.get("path"), path);
  assert.match(url.searchParams.get("signature") ?? "", /^[0-9a-f]{64}$/);
  const response = await fetch(url);
  assert.equal(await response.text(), "content");
  assert.equal(response.headers.get("content-length"), "7");
  const part = await fetch(url, { headers: { range: "bytes=3-" } });
  assert.deepEqual([part.status, await part.text()], [206, "tent"]);
});

test("a URL is valid only for its time, path, sandbox and purpose", async () => {
  await using given = await setUp();
  const { world, clock, sign } = given;
  await world.call("PUT", `/api/sandboxes/${given.id}/files?path=/a`, "a");
  const [, { url: signed }] = await sign("download", { path: "/a", expiresIn: 60 });
  const refusal = async (change: (url: URL) => void, method = "GET") => {
    const url = new URL(signed);
    change(url);
    const response = await fetch(url, { method, ...(method === "PUT" ? { body: "x" } : {}) });
    return [response.status, ((await response.json()) as { error: string }).error];
  };
  const invalid = [403, "invalid signature"];
  assert.deepEqual(await refusal((url) => url.searchParams.set("path", "/b")), invalid);
  assert.deepEqual(await refusal((url) => url.searchParams.set("expires", "99999999999")), invalid);
  assert.deepEqual(await refusal((url) => url.searchParams.set("signature", "00")), invalid);
  assert.deepEqual(await refusal((url) => (url.pathname = url.pathname.replace(given.id, "sb-00000000"))), invalid);
  assert.deepEqual(await refusal((url) => (url.pathname = url.pathname.replace("download", "upload")), "PUT"), invalid);
  const missing = [400, "path, expires, and signature are required"];
  for (const name of ["path", "expires", "signature"]) {
    assert.deepEqual(await refusal((url) => url.searchParams.delete(name)), missing);
  }
  clock.advance(61);
  assert.deepEqual(await refusal(() => undefined), [403, "signed URL expired"]);
});

test("a URL is valid for an hour by default and a day at most, under the client's origin", async () => {
  await using given = await setUp();
  const { clock, sign } = given;
  const secondsOf = async (expiresIn?: number) => {
    const [, { expiresAt }] = await sign("download", { path: "/a", ...(expiresIn === undefined ? {} : { expiresIn }) });
    return (Date.parse(expiresAt) - clock.now()) / 1000;
  };
  assert.equal(await secondsOf(), 3600);
  assert.equal(await secondsOf(0), 3600);
  assert.equal(await secondsOf(-5), 3600);
  assert.equal(await secondsOf(1e9), 86_400);
  const [, { url }] = await sign("download", { path: "/a" }, { "x-forwarded-proto": "https" });
  assert.match(url, /^https:\/\/127\.0\.0\.1:\d+\//);
  for (const body of [{}, { path: "" }]) {
    assert.deepEqual((await sign("upload", body))[1].error, "path is required");
  }
});

test("the key outlives the server", async () => {
  await using first = await setUp();
  const [, { url }] = await first.sign("download", { path: "/a" });
  await using second = await startForTest({ database: first.world.database, tuning: { clock: first.clock } });
  const again = new URL(url);
  again.port = new URL(second.url).port;
  // The second server does not have the sandbox, so only a wrong signature would be answered with 403.
  assert.notEqual((await fetch(again)).status, 403);
  const signature = again.searchParams.get("signature") ?? "";
  assert.equal(signature.length, createHmac("sha256", "").digest("hex").length);
});
