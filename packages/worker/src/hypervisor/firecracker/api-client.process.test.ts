import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite, test, type TestContext } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { ApiClient } from "./api-client.ts";

const deadline = (): AbortSignal => AbortSignal.timeout(30_000);
const never = new Promise<never>(() => undefined);

async function socketPath(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-api-"));
  t.after(() => rm(directory, { recursive: true }));
  return join(directory, "api.sock");
}

/** A client, and the API's end of its connection. */
async function connected(t: TestContext): Promise<{ readonly api: ApiClient; readonly server: Socket }> {
  const path = await socketPath(t);
  const listener = createServer().listen(path);
  t.after(() => listener.close());
  await once(listener, "listening", { signal: deadline() });
  const connecting = ApiClient.connect(path, deadline());
  const [server] = (await once(listener, "connection", { signal: deadline() })) as [Socket];
  server.on("error", () => server.destroy());
  return { api: await connecting, server };
}

function answer(status: string, body = ""): string {
  return `HTTP/1.1 ${status}\r\nServer: Firecracker API\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

test("a client connects as soon as the API listens, and not after its process has ended", async (t) => {
  const path = await socketPath(t);
  const connecting = ApiClient.connect(path, deadline(), never);
  const listener = createServer().listen(path);
  t.after(() => listener.close());
  (await connecting)[Symbol.dispose]();

  const missing = ApiClient.connect(`${path}.other`, deadline(), Promise.resolve());
  await assert.rejects(missing, (error) => isSandboxError(error, "unavailable"));
});

test("requests are answered in their order, and an answer may arrive in pieces", async (t) => {
  const { api, server } = await connected(t);
  const first = api.request({ method: "GET", path: "/" });
  const [head] = (await once(server, "data", { signal: deadline() })) as [Buffer];
  assert.match(head.toString(), /^GET \/ HTTP\/1\.1\r\nHost: localhost\r\n.*Content-Length: 0\r\n\r\n$/s);
  const second = api.request({ method: "PUT", path: "/vsock", body: { guest_cid: 3 } });
  const [put] = (await once(server, "data", { signal: deadline() })) as [Buffer];
  assert.ok(put.toString().endsWith('Content-Length: 15\r\n\r\n{"guest_cid":3}'), put.toString());

  for (const piece of answer("200 OK", '{"state":"Running"}') + answer("204 No Content")) server.write(piece);

  assert.deepEqual(await first, { state: "Running" });
  assert.equal(await second, undefined);
  api[Symbol.dispose]();
});

test("a refusal fails only its own request, with Firecracker's message", async (t) => {
  const { api, server } = await connected(t);
  for (const [body, said] of [
    ['{"fault_message":"no such kernel"}', /Firecracker refuses PUT \/boot-source: no such kernel$/],
    ["{}", /status 400$/],
    ["null", /status 400$/],
    ["", /status 400$/],
  ] as const) {
    const refused = api.request({ method: "PUT", path: "/boot-source", body: {} });
    server.write(answer("400 Bad Request", body));
    await assert.rejects(refused, said);
  }
  api[Symbol.dispose]();
});

suite("an API that sends anything but answers loses its connection, and its requests fail as unavailable", () => {
  const sent = {
    "no status": "hello\r\n\r\n",
    "content that is not JSON": answer("200 OK", "{]"),
    "two lengths": "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "an answer that nothing asked for": answer("204 No Content") + answer("204 No Content"),
    "an endless header": Buffer.alloc(2 * 2 ** 20, "a"),
    "content without end": `HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n${"a".repeat(2 * 2 ** 20)}`,
  };
  for (const [what, bytes] of Object.entries(sent)) {
    test(what, async (t) => {
      const { api, server } = await connected(t);
      const request = api.request({ method: "PATCH", path: "/vm", body: { state: "Paused" } });
      server.write(bytes);
      if (what !== "an answer that nothing asked for") {
        await assert.rejects(request, (error) => isSandboxError(error, "unavailable"));
      }
      await api.closed;
      await assert.rejects(api.request({ method: "GET", path: "/" }), (error) => isSandboxError(error, "unavailable"));
    });
  }
});
