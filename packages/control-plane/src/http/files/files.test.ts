import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { startForTest, testKey } from "#testing/start-for-test.ts";

async function setUp() {
  const world = await startForTest();
  const id = await world.create();
  const at = (path: string, more = "") => `/api/sandboxes/${id}/files${more}?path=${encodeURIComponent(path)}`;
  return { world, id, at, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() };
}

test("files of any name and content are written, read, listed and removed", async () => {
  await using given = await setUp();
  const { world, at } = given;
  const contents: [string, Uint8Array][] = [
    ["/home/sandbox/empty", new Uint8Array()],
    ["/home/sandbox/ünï cødé & more?.txt", Buffer.from("héllo")],
    ["/home/sandbox/deep/er/binary", Uint8Array.from({ length: 70_000 }, (_, index) => index % 256)],
  ];
  for (const [path, bytes] of contents) {
    assert.equal((await world.call("PUT", at(path), bytes)).status, 204);
    const read = await world.call("GET", at(path));
    assert.equal(read.status, 200);
    assert.equal(read.headers.get("content-length"), `${bytes.length}`);
    assert.equal(read.headers.get("content-type"), "application/octet-stream");
    assert.deepEqual(new Uint8Array(await read.arrayBuffer()), Uint8Array.from(bytes));
  }
  const list = (await (await world.call("GET", at("/home/sandbox", "/list"))).json()) as {
    name: string;
    isDir: boolean;
  }[];
  assert.deepEqual(
    list.map(({ name, isDir }) => [name, isDir]),
    [
      ["empty", false],
      ["ünï cødé & more?.txt", false],
      ["deep", true],
    ],
  );
  assert.equal((await world.call("DELETE", at("/home/sandbox/deep"))).status, 204);
  assert.equal((await world.call("GET", at("/home/sandbox/deep/er/binary"))).status, 404);
  assert.equal((await world.call("DELETE", at("/nothing"))).status, 204);
  assert.equal((await world.call("POST", at("/new", "/mkdir"))).status, 204);
});

test("a relative path starts at the home directory, and a mode is kept", async () => {
  await using given = await setUp();
  const { world, at } = given;
  assert.equal((await world.call("PUT", `${at("tool.sh")}&mode=755`, "#!")).status, 204);
  const [entry] = (await (await world.call("GET", at("/home/sandbox", "/list"))).json()) as [Record<string, unknown>];
  assert.deepEqual(entry, {
    name: "tool.sh",
    isDir: false,
    size: 2,
    path: "/home/sandbox/tool.sh",
    kind: "file",
    mode: 0o755,
    modifiedAt: "1970-01-01T00:00:00.000Z",
    owner: "sandbox",
    group: "sandbox",
  });
  assert.equal((await world.call("PUT", `${at("tool.sh")}&mode=rwx`, "#!")).status, 400);
});

test("bad paths are refused with a helpful message", async () => {
  await using given = await setUp();
  const { world, id, at } = given;
  await world.call("PUT", at("/dir/file"), "x");
  const refusal = async (method: string, path: string) => {
    const response = await world.call(method, path);
    return [response.status, ((await response.json()) as { error: string }).error];
  };
  const missing = [400, "path query parameter is required"];
  for (const [method, route] of [
    ["GET", ""],
    ["PUT", ""],
    ["DELETE", ""],
    ["GET", "/list"],
    ["POST", "/mkdir"],
  ] as const) {
    assert.deepEqual(await refusal(method, `/api/sandboxes/${id}/files${route}`), missing);
    assert.deepEqual(await refusal(method, at("", route)), missing);
  }
  assert.deepEqual(await refusal("GET", at("a\0b")), [400, "path must not contain a NUL character"]);
  assert.deepEqual(await refusal("GET", at("/none")), [404, "/none does not exist"]);
  assert.deepEqual(await refusal("GET", at("/dir")), [400, "/dir is a directory: list it with .../files/list"]);
});

test("a write that fails during the upload is answered, and no more is read", async () => {
  await using given = await setUp();
  const { world, at } = given;
  const { port, hostname } = new URL(world.url);
  const socket = connect(Number(port), hostname);
  let answer = "";
  socket.on("data", (data: Buffer) => (answer += data.toString()));
  // Bytes that the server has not read when it closes turn the close into a reset.
  socket.on("error", () => {});
  socket.write(
    `PUT ${at("/full/file")} HTTP/1.1\r\nHost: x\r\nX-API-Key: ${testKey}\r\nContent-Length: ${2 ** 30}\r\n\r\n`,
  );
  const closed = within("the server closes the connection", new Promise((resolve) => socket.once("close", resolve)));
  let sent = 0;
  while (!socket.destroyed && sent < 2 ** 30) {
    sent += 2 ** 16;
    if (!socket.write(Buffer.alloc(2 ** 16))) await Promise.race([once(socket, "drain").catch(() => {}), closed]);
  }
  await closed;
  assert.match(answer, /^HTTP\/1.1 429 [\s\S]*no space left for \/full\/file/);
  assert.ok(sent < 64 * 2 ** 20, `${sent} bytes were taken`);
});

test("after a failed write of ordinary size the connection can be used again", async () => {
  await using given = await setUp();
  const { world, at } = given;
  const { port, hostname } = new URL(world.url);
  const socket = connect(Number(port), hostname);
  let answer = "";
  socket.on("data", (data: Buffer) => (answer += data.toString()));
  const headers = `Host: x\r\nX-API-Key: ${testKey}\r\n`;
  socket.write(`PUT ${at("/full/file")} HTTP/1.1\r\n${headers}Content-Length: 4000000\r\n\r\n`);
  // Exceeds the buffers of the connection, so the server has to read the body.
  socket.write(Buffer.alloc(4_000_000));
  socket.write(`GET ${at("/nothing")} HTTP/1.1\r\n${headers}\r\n`);
  await eventually("both are answered", () => answer.split("HTTP/1.1").length === 3);
  assert.match(answer, /^HTTP\/1\.1 429 [\s\S]*HTTP\/1\.1 404 /);
  socket.destroy();
});

test("a client that disconnects during an upload leaves no file", async () => {
  await using given = await setUp();
  const { world, at } = given;
  const { port, hostname } = new URL(world.url);
  const socket = connect(Number(port), hostname);
  socket.write(
    `PUT ${at("/half")} HTTP/1.1\r\nHost: x\r\nX-API-Key: ${testKey}\r\nContent-Length: 1000000\r\n\r\nbegin`,
  );
  await sleep(50);
  socket.destroy();
  await eventually("it is given up", () => world.worker.brokenUploads.includes("/half"));
  assert.equal((await world.call("GET", at("/half"))).status, 404);
});

test("200 MB pass in bounded memory", async () => {
  await using given = await setUp();
  const { world, at } = given;
  const chunk = new Uint8Array(2 ** 20);
  let left = 200;
  const body = new ReadableStream<Uint8Array>({
    pull: (controller) => (left-- > 0 ? controller.enqueue(chunk) : controller.close()),
  });
  const before = process.memoryUsage().rss;
  assert.equal((await world.call("PUT", at("/sink/large"), body)).status, 204);
  assert.ok(process.memoryUsage().rss - before < 150 * 2 ** 20);
});

test("a read that breaks in the middle never looks complete", async () => {
  await using given = await setUp();
  const { world, id, at } = given;
  const half = new Uint8Array(1000);
  world.worker.plantFile(id, "/breaks", [half, new Error("the disk is gone")], 2000);
  world.worker.plantFile(id, "/shrinks", [half], 2000);
  for (const path of ["/breaks", "/shrinks"]) {
    const response = await world.call("GET", at(path));
    assert.equal(response.status, 200);
    await assert.rejects(response.arrayBuffer());
  }
});

test("a read that breaks after the last byte of the answer leaves the connection as it is", async () => {
  await using given = await setUp();
  const { world, id, at } = given;
  world.worker.plantFile(id, "/whole", [Buffer.from("123456"), new Error("the disk is gone")], 6);
  const { port, hostname } = new URL(world.url);
  const socket = connect(Number(port), hostname);
  let answer = "";
  socket.on("data", (data: Buffer) => (answer += data.toString()));
  const headers = `Host: x\r\nX-API-Key: ${testKey}\r\n`;
  for (const [path, count] of [
    ["/whole", 2],
    ["/nothing", 3],
  ] as const) {
    socket.write(`GET ${at(path)} HTTP/1.1\r\n${headers}\r\n`);
    await eventually(`${path} is answered`, () => answer.split("HTTP/1.1").length === count);
  }
  assert.match(answer, /^HTTP\/1\.1 200 [\s\S]*123456HTTP\/1\.1 404 /);
  socket.destroy();
});

test("a read that breaks before its first byte is answered with its own status", async () => {
  await using given = await setUp();
  const { world, id, at } = given;
  world.worker.plantFile(id, "/dead", [new Error("the disk is gone")], 2000);
  assert.equal((await world.call("GET", at("/dead"))).status, 500);
});

test("a growing file is sent up to its size at the start, and one with a wrong size of 0 is read", async () => {
  await using given = await setUp();
  const { world, id, at } = given;
  world.worker.plantFile(id, "/grows", [Buffer.from("1234"), Buffer.from("5678"), Buffer.from("9")], 6);
  world.worker.plantFile(id, "/proc/cpuinfo", [Buffer.from("model")], 0);
  assert.equal(await (await world.call("GET", at("/grows"))).text(), "123456");
  const unsized = await world.call("GET", at("/proc/cpuinfo"));
  assert.equal(unsized.headers.get("content-length"), null);
  assert.equal(await unsized.text(), "model");
});

test("a requested part of a file is sent", async () => {
  await using given = await setUp();
  const { world, at } = given;
  await world.call("PUT", at("/digits"), "0123456789");
  const read = async (headers: Record<string, string>) => {
    const response = await world.call("GET", at("/digits"), undefined, { headers });
    return [response.status, response.headers.get("content-range"), await response.text()];
  };
  assert.deepEqual(await read({ range: "bytes=2-4" }), [206, "bytes 2-4/10", "234"]);
  assert.deepEqual(await read({ range: "bytes=7-" }), [206, "bytes 7-9/10", "789"]);
  assert.deepEqual(await read({ range: "bytes=-2" }), [206, "bytes 8-9/10", "89"]);
  assert.deepEqual(await read({ range: "bytes=0-1,3-4" }), [200, null, "0123456789"]);
  assert.deepEqual(await read({ range: "bytes=2-4", "if-range": '"etag"' }), [200, null, "0123456789"]);
  const [status, range] = await read({ range: "bytes=10-" });
  assert.deepEqual([status, range], [416, "bytes */10"]);
});

test("the head of a file has its size and no body", async () => {
  await using given = await setUp();
  const { world, at } = given;
  await world.call("PUT", at("/digits"), "0123456789");
  const head = await world.call("HEAD", at("/digits"));
  assert.deepEqual(
    [head.status, head.headers.get("content-length"), head.headers.get("accept-ranges")],
    [200, "10", "bytes"],
  );
  assert.equal(await head.text(), "");
  assert.equal((await world.call("HEAD", at("/none"))).status, 404);
});

test("entries are described, moved and changed", async () => {
  await using given = await setUp();
  const { world, id, at } = given;
  await world.call("PUT", at("/here"), "x");
  const [status, entry] = await world.ask("GET", at("/here", "/stat"));
  assert.deepEqual([status, entry.kind, entry.size, entry.owner], [200, "file", 1, "sandbox"]);
  const rename = async (body: object) => (await world.call("POST", `/api/sandboxes/${id}/files/rename`, body)).status;
  assert.equal(await rename({ from: "/here", to: "moved" }), 204);
  assert.equal((await world.call("GET", at("/home/sandbox/moved"))).status, 200);
  assert.deepEqual([await rename({ from: "/here", to: "/x" }), await rename({ from: "/a" })], [404, 400]);
  const [changed, { mode }] = await world.ask("PATCH", at("moved"), { mode: "600" });
  assert.deepEqual([changed, mode], [200, 0o600]);
  assert.equal((await world.ask("PATCH", at("moved"), { mode: "rw" }))[0], 400);
});

test("changes are reported as they come", async () => {
  await using given = await setUp();
  const { world, at } = given;
  await world.call("PUT", at("/dir/file"), "x");
  world.worker.changes.set("/dir", [[{ kind: "created", path: "/dir/new" }], [{ kind: "removed", path: "/dir/new" }]]);
  const giveUp = new AbortController();
  const response = await world.call("GET", at("/dir", "/watch"), undefined, { signal: giveUp.signal });
  assert.equal(response.headers.get("content-type"), "text/event-stream");
  let text = "";
  for await (const chunk of response.body ?? assert.fail("there is no body")) {
    text += Buffer.from(chunk).toString();
    if (text.includes("removed")) break;
  }
  giveUp.abort();
  assert.equal(
    text,
    'event: ready\ndata: {}\n\nevent: change\ndata: {"kind":"created","path":"/dir/new"}\n\n' +
      'event: change\ndata: {"kind":"removed","path":"/dir/new"}\n\n',
  );
  assert.equal((await world.ask("GET", at("/none", "/watch")))[0], 404);
});
