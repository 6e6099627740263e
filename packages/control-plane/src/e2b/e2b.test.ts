import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createServer, request as startRequest } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, suite, test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { messageIn } from "@opensandbox/wire/e2b/connect.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { openDatabase } from "#database/database.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { startAfterCrash, startForTest, type Json, type TestControlPlane } from "#testing/start-for-test.ts";
import { signatureOf } from "./envd/file-transfer.ts";

interface Started {
  readonly sandboxID: string;
  readonly envdAccessToken: string;
}

/** A call to the inside of a sandbox. */
type Inside = (path: string, init?: RequestInit) => Promise<Response>;

function insideOf(world: TestControlPlane, { sandboxID, envdAccessToken }: Started): Inside {
  const own = { "e2b-sandbox-id": sandboxID, "e2b-sandbox-port": "49983", "x-access-token": envdAccessToken };
  return (path, init = {}) =>
    fetch(`${world.url}${path}`, { ...init, headers: { ...own, ...(init.headers as Record<string, string>) } });
}

async function rpc(inside: Inside, method: string, body: object): Promise<[status: number, reply: Json]> {
  const response = await inside(`/${method}`, { method: "POST", body: JSON.stringify(body) });
  return [response.status, await response.json()];
}

/** The messages of a streaming call, and its end. */
async function streamed(
  inside: Inside,
  method: string,
  body: object,
  headers = {},
): Promise<{ messages: Json[]; end: Json }> {
  const response = await inside(`/${method}`, { method: "POST", body: enveloped(body), headers });
  const bytes = Buffer.from(await response.arrayBuffer());
  const messages: Json[] = [];
  for (let at = 0; at < bytes.length;) {
    const message = messageIn(bytes.subarray(at));
    const json: Json = JSON.parse(Buffer.from(message.bytes).toString());
    if ((bytes[at]! & 2) !== 0) return { messages, end: json };
    messages.push(json);
    at += 5 + message.bytes.length;
  }
  return assert.fail("the stream ended without its last envelope");
}

function enveloped(body: object): Uint8Array<ArrayBuffer> {
  const text = Buffer.from(JSON.stringify(body));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(text.length, 1);
  return new Uint8Array(Buffer.concat([head, text]));
}

function start(cmd: string, ...args: string[]): object {
  return { process: { cmd, args }, stdin: false };
}

suite("the REST interface of E2B", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  before(async () => {
    world = stack.use(await startForTest({ masterKeys: ["a1".repeat(32)] }));
  });
  after(() => stack.disposeAsync());

  async function create(body: object = {}): Promise<Json> {
    const [status, reply] = await world.ask("POST", "/v2/sandboxes", body);
    assert.equal(status, 201, JSON.stringify(reply));
    return reply;
  }

  test("a create returns what clients need to reach the sandbox, which is one of ours", async () => {
    const created = await create({ templateID: "base", timeout: 60, metadata: { a: "b" }, envVars: { C: "d" } });
    assert.deepEqual(Object.keys(created).toSorted(), [
      "alias",
      "clientID",
      "domain",
      "envdAccessToken",
      "envdVersion",
      "sandboxID",
      "templateID",
    ]);
    const ours = await world.get(created.sandboxID);
    assert.deepEqual([ours.status, ours.metadata, ours.timeout], ["running", { a: "b" }, 0]);
  });

  test("by default a sandbox lives 15 seconds in version 1, and 300 in version 2", async () => {
    for (const [path, seconds] of [
      ["/sandboxes", 15],
      ["/v2/sandboxes", 300],
    ] as const) {
      const [, { sandboxID }] = await world.ask("POST", path, {});
      const [, detail] = await world.ask("GET", `/sandboxes/${sandboxID}`);
      const life = (Date.parse(detail.endAt) - Date.parse(detail.startedAt)) / 1000;
      assert.ok(life >= seconds && life < seconds + 10, `${path}: ${life} s`);
    }
  });

  test("every failure carries its status as a number", async () => {
    const missing = "sb-0000000000000000";
    for (const [method, path, body, code] of [
      ["GET", `/sandboxes/${missing}`, undefined, 404],
      ["DELETE", `/sandboxes/${missing}`, undefined, 404],
      ["GET", "/sandboxes/nonsense", undefined, 404],
      ["POST", "/v2/sandboxes", { timeout: 0 }, 400],
      ["POST", "/v2/sandboxes", { templateID: "nothing" }, 404],
      ["POST", "/v2/sandboxes", { mcp: {} }, 501],
      ["POST", `/sandboxes/${missing}/fork`, { count: 0 }, 400],
      ["GET", "/v2/sandboxes?limit=101", undefined, 400],
      ["GET", "/v2/sandboxes?nextToken=x", undefined, 400],
      ["GET", "/templates/aliases/nothing", undefined, 404],
      ["GET", "/volumes", undefined, 501],
    ] as const) {
      const [status, reply] = await world.ask(method, path, body);
      assert.deepEqual([status, reply.code, typeof reply.message], [code, code, "string"], `${method} ${path}`);
    }
    for (const headers of [{ "x-api-key": "wrong" }, { "x-api-key": "" }]) {
      const [status, reply] = await world.ask("GET", "/v2/sandboxes", undefined, { headers });
      assert.deepEqual([status, reply.code], [401, 401]);
    }
  });

  test("a key may begin with E2B's prefix", async () => {
    await using stored = await startForTest({ storedKeys: true });
    const digits = "0123456789abcdef".repeat(4);
    const database = await openDatabase(stored.database);
    const keyHash = createHash("sha256").update(`osb_${digits}`).digest("hex");
    const row = { id: "k", organization_id: "org-default", name: "k", key_hash: keyHash, key_prefix: "osb_" };
    await database
      .insertInto("api_keys")
      .values({ ...row, created_at: 0 })
      .execute();
    await database.destroy();
    for (const [key, expected] of [
      [`osb_${digits}`, 200],
      [`e2b_${digits}`, 200],
      [`e2b_${digits.replace("0", "1")}`, 401],
    ] as const) {
      const init = { headers: { "x-api-key": key } };
      assert.equal((await stored.ask("GET", "/v2/sandboxes", undefined, init))[0], expected);
    }
  });

  test("connect extends the end of a sandbox and never shortens it; timeout does both", async () => {
    const { sandboxID: id } = await create({ timeout: 100 });
    const endAt = async (): Promise<string> => (await world.ask("GET", `/sandboxes/${id}`))[1].endAt;
    const first = await endAt();
    assert.equal((await world.ask("POST", `/v2/sandboxes/${id}/connect`, { timeout: 10 }))[0], 200);
    assert.equal(await endAt(), first);
    await world.ask("POST", `/v2/sandboxes/${id}/connect`, { timeout: 1000 });
    assert.ok((await endAt()) > first);
    assert.equal((await world.ask("POST", `/sandboxes/${id}/timeout`, { timeout: 10 }))[0], 204);
    assert.ok((await endAt()) < first);
  });

  test("a paused sandbox keeps its start time, answers calls inside with 502, and resumes", async () => {
    const created = await create();
    const path = `/sandboxes/${created.sandboxID}`;
    const inside = insideOf(world, created);
    assert.equal((await inside("/health")).status, 204);
    const before = (await world.ask("GET", path))[1];
    assert.equal((await world.ask("POST", `${path}/pause`, {}))[0], 204);
    assert.deepEqual((await world.ask("POST", `${path}/pause`, {}))[1].code, 409);
    const paused = (await world.ask("GET", path))[1];
    assert.deepEqual([paused.state, paused.startedAt], ["paused", before.startedAt]);
    const health = await inside("/health");
    assert.deepEqual([health.status, ((await health.json()) as Json).code], [502, 502]);
    assert.equal((await rpc(inside, "process.Process/List", {}))[0], 502);
    assert.equal((await world.ask("POST", `${path}/fork`, {}))[0], 409);
    assert.equal((await world.ask("POST", `/v2${path}/connect`, {}))[0], 201);
    assert.deepEqual((await rpc(inside, "process.Process/List", {}))[1], { processes: [] });
    assert.equal((await world.ask("DELETE", path))[0], 204);
    assert.equal((await world.ask("DELETE", path))[0], 404);
    assert.equal((await inside("/health")).status, 502);
  });

  test("a call wakes a paused sandbox that resumes by itself", async () => {
    const created = await create({ autoPause: true, autoResume: { enabled: true } });
    const inside = insideOf(world, created);
    await world.ask("POST", `/sandboxes/${created.sandboxID}/pause`, {});
    assert.equal((await inside("/health")).status, 502);
    assert.equal((await rpc(inside, "process.Process/List", {}))[0], 200);
    assert.equal((await world.ask("GET", `/sandboxes/${created.sandboxID}`))[1].state, "running");
  });

  test("a stranger without the token neither wakes a paused sandbox nor extends its life", async () => {
    const created = await create({ autoPause: true, autoResume: { enabled: true } });
    const path = `/sandboxes/${created.sandboxID}`;
    await world.ask("POST", `${path}/pause`, {});
    const before = (await world.ask("GET", path))[1];
    const inside = insideOf(world, { ...created, envdAccessToken: "wrong" });
    assert.deepEqual((await rpc(inside, "process.Process/List", {}))[0], 401);
    assert.deepEqual((await world.ask("GET", path))[1], before);
  });

  test("pages list running and paused sandboxes once each, in the order of creation", async () => {
    const metadata = { "a b": "c&d" };
    const ids: string[] = [];
    for (let count = 0; count < 3; count += 1) ids.unshift((await create({ metadata })).sandboxID);
    await world.ask("POST", `/sandboxes/${ids[1]}/pause`, {});
    // Clients encode the metadata three times.
    const filter = encodeURIComponent(
      new URLSearchParams({ [encodeURIComponent("a b")]: encodeURIComponent("c&d") }).toString(),
    );
    const found: string[] = [];
    let token = "";
    for (let pages = 1; ; pages += 1) {
      const response = await world.call("GET", `/v2/sandboxes?limit=1&metadata=${filter}&nextToken=${token}`);
      const page = (await response.json()) as { sandboxID: string }[];
      found.push(...page.map(({ sandboxID }) => sandboxID));
      token = response.headers.get("x-next-token") ?? "";
      if (token !== "") continue;
      assert.equal(pages, 3);
      break;
    }
    assert.deepEqual(found, ids);
    const of = async (state: string): Promise<string[]> =>
      (await world.ask("GET", `/v2/sandboxes?state=${state}&metadata=${filter}`))[1].map(
        ({ sandboxID }: Started) => sandboxID,
      );
    assert.deepEqual(await of("paused"), [ids[1]]);
    assert.deepEqual(await of("running"), [ids[0], ids[2]]);
    assert.deepEqual((await of("running,paused")).length, 3);
  });

  test("a refresh extends the end of a sandbox, and a resume is refused unless it is paused", async () => {
    const { sandboxID: id } = await create({ timeout: 100 });
    const endAt = async (): Promise<string> => (await world.ask("GET", `/sandboxes/${id}`))[1].endAt;
    const first = await endAt();
    assert.equal((await world.ask("POST", `/sandboxes/${id}/refreshes`, { duration: 10 }))[0], 204);
    assert.equal(await endAt(), first);
    assert.equal((await world.ask("POST", `/sandboxes/${id}/refreshes`, { duration: 1000 }))[0], 204);
    assert.ok((await endAt()) > first);
    assert.equal((await world.ask("POST", `/sandboxes/${id}/resume`, {}))[1].code, 409);
    await world.ask("POST", `/sandboxes/${id}/pause`, {});
    assert.equal((await world.ask("POST", `/sandboxes/${id}/resume`, {}))[0], 201);
  });

  test("the log of a sandbox is read in both versions, by time, level, text and direction, also while it is paused", async () => {
    const { sandboxID: id } = await create();
    const command = { cmd: "sh", args: ["-c", "echo printed; echo failed >&2"] };
    assert.equal((await world.ask("POST", `/api/sandboxes/${id}/exec`, command))[0], 201);
    const lines = async (query: string): Promise<Json[]> =>
      (await world.ask("GET", `/v2/sandboxes/${id}/logs?${query}`))[1].logs;
    const [failed] = await eventually("the line is in the log", async () => {
      const found = await lines("level=error");
      return found.length > 0 && found;
    });
    assert.deepEqual([failed.message, failed.level, failed.fields.logger], ["failed", "error", "exec_stderr"]);
    assert.equal(failed.fields.command, "sh -c echo printed; echo failed >&2");
    assert.deepEqual(
      (await lines("search=printed")).map(({ message }) => message),
      ["printed"],
    );
    const all = await lines("");
    assert.deepEqual(await lines("direction=backward"), all.toReversed());
    assert.equal((await lines("limit=1")).length, 1);
    assert.deepEqual(await lines(`cursor=${Date.now() + 3_600_000}`), []);
    const [, first] = await world.ask("GET", `/sandboxes/${id}/logs?start=0`);
    assert.deepEqual(first.logEntries, all);
    const [line] = first.logs
      .map((log: Json) => JSON.parse(log.line))
      .filter(({ message }: Json) => message === "failed");
    assert.deepEqual([line.level, line.logger], ["error", "exec_stderr"]);

    await world.ask("POST", `/sandboxes/${id}/pause`, {});
    const asleep = await lines("");
    assert.ok(asleep.length > 0 && asleep.every(({ fields }) => fields.logger === "lifecycle"), JSON.stringify(asleep));
    assert.equal((await world.ask("GET", "/v2/sandboxes/sb-0000000000000000/logs"))[1].code, 404);
    assert.equal((await world.ask("GET", `/v2/sandboxes/${id}/logs?limit=1001`))[1].code, 400);
  });

  test("images of the server are templates, and the organization of the key is a team", async () => {
    assert.deepEqual(await world.ask("GET", "/templates/aliases/base"), [200, { templateID: "base", public: true }]);
    const [, templates] = await world.ask("GET", "/v2/templates");
    assert.deepEqual(
      (templates as { templateID: string }[]).map(({ templateID }) => templateID),
      ["base", "minimal"],
    );
    const [, [team]] = await world.ask("GET", "/teams");
    assert.deepEqual([team.teamID, team.apiKey, team.isDefault], ["org-default", "", true]);
  });

  test("a sandbox of another interface keeps its idle timeout until a client sets its end", async () => {
    const id = await world.create({ timeout: 600 });
    const [status, connected] = await world.ask("POST", `/v2/sandboxes/${id}/connect`, { timeout: 10 });
    assert.deepEqual([status, (await world.get(id)).timeout], [200, 600]);
    assert.deepEqual((await rpc(insideOf(world, connected), "process.Process/List", {}))[0], 200);
    const { lifecycle } = (await world.ask("GET", `/sandboxes/${id}`))[1];
    assert.deepEqual(lifecycle, { autoResume: true, onTimeout: "pause" });
    assert.equal((await world.ask("POST", `/sandboxes/${id}/timeout`, { timeout: 60 }))[0], 204);
    assert.equal((await world.get(id)).timeout, 0);
  });

  test("a snapshot outlives its sandbox and starts others; removing it twice fails", async () => {
    const { sandboxID } = await create({ metadata: { from: "snapshot" } });
    const [status, snapshot] = await world.ask("POST", `/sandboxes/${sandboxID}/snapshots`, { name: "mine" });
    assert.deepEqual([status, snapshot.names], [201, ["mine"]]);
    await world.ask("DELETE", `/sandboxes/${sandboxID}`);
    for (const templateID of [snapshot.snapshotID, "mine"]) {
      assert.equal((await create({ templateID })).templateID, templateID);
    }
    assert.deepEqual((await world.ask("GET", `/snapshots?sandboxID=${sandboxID}`))[1], [snapshot]);
    assert.deepEqual((await world.ask("GET", "/snapshots?name=unknown"))[1], []);
    const path = `/templates/${encodeURIComponent(snapshot.snapshotID)}`;
    assert.equal((await world.ask("DELETE", path))[0], 204);
    assert.equal((await world.ask("DELETE", path))[0], 404);
  });

  test("copies of a sandbox are sandboxes of their own", async () => {
    const { sandboxID } = await create({ metadata: { a: "b" } });
    const [status, copies] = await world.ask("POST", `/sandboxes/${sandboxID}/fork`, { count: 2, timeout: 60 });
    assert.equal(status, 201);
    const ids = (copies as { sandbox: Started }[]).map(({ sandbox }) => sandbox.sandboxID);
    assert.equal(new Set([sandboxID, ...ids]).size, 3);
    for (const id of ids) assert.deepEqual((await world.ask("GET", `/sandboxes/${id}`))[1].metadata, { a: "b" });
    assert.deepEqual((await world.ask("GET", `/snapshots?sandboxID=${sandboxID}`))[1], []);
  });

  test("rules for outgoing traffic become a network policy, or are refused", async () => {
    const { sandboxID: closed } = await create({ allow_internet_access: false });
    assert.equal((await world.get(closed)).networkEnabled, false);
    const network = { allowOut: ["203.0.113.7"], denyOut: ["0.0.0.0/0"] };
    const { sandboxID: some } = await create({ network });
    assert.deepEqual((await world.get(some)).egress, { allow: ["203.0.113.7"] });
    assert.deepEqual((await world.ask("GET", `/sandboxes/${some}`))[1].network, network);
    assert.equal((await world.ask("PUT", `/sandboxes/${some}/network`, { denyOut: ["198.51.100.0/24"] }))[0], 204);
    assert.deepEqual((await world.get(some)).egress, { deny: ["198.51.100.0/24"] });
    const headed = {
      allowOut: ["api.example.com"],
      denyOut: ["0.0.0.0/0"],
      rules: { "api.example.com": [{ transform: { headers: { "x-a": "1", "x-b": "2" } } }, { transform: {} }] },
    };
    const { sandboxID: own } = await create({ network: headed });
    const headers = { "api.example.com": { "x-a": "1", "x-b": "2" } };
    assert.deepEqual((await world.get(own)).egress, { allow: ["api.example.com"], headers });
    assert.deepEqual((await world.ask("GET", `/sandboxes/${own}`))[1].network.rules, {
      "api.example.com": [{ transform: { headers: headers["api.example.com"] } }],
    });
    const changed = [{ transform: { headers: { "x-a": "1" } } }, { transform: { headers: { "x-a": "3" } } }];
    const rules = { "*.example.com": changed };
    assert.equal((await world.ask("PUT", `/sandboxes/${own}/network`, { rules }))[0], 204);
    assert.deepEqual((await world.get(own)).egress, { headers: { "*.example.com": { "x-a": "3" } } });
    for (const wrong of [{ headers: { host: "evil.example" } }, { headers: { "x-a": "1\r\nx-b: 2" } }, { body: "x" }]) {
      const asked = { rules: { "api.example.com": [{ transform: wrong }] } };
      assert.equal((await world.ask("PUT", `/sandboxes/${own}/network`, asked))[0], 400, JSON.stringify(wrong));
    }
    assert.equal((await world.ask("PUT", `/sandboxes/${own}/network`, {}))[0], 204);
    assert.equal((await world.get(own)).egress, undefined);
    const both = { network: { allowOut: ["203.0.113.7"], denyOut: ["203.0.113.0/24"] } };
    assert.equal((await world.ask("POST", "/v2/sandboxes", both))[0], 501);
  });
});

suite("the inside of a sandbox, as E2B's clients call it", () => {
  const stack = new AsyncDisposableStack();
  let world: TestControlPlane;
  let created: Started;
  let inside: Inside;
  before(async () => {
    world = stack.use(await startForTest());
    [, created] = await world.ask("POST", "/v2/sandboxes", { envVars: { FROM_CREATE: "yes" } });
    inside = insideOf(world, created);
  });
  after(() => stack.disposeAsync());

  test("a command streams its start, its output and its end", async () => {
    const { messages, end } = await streamed(
      inside,
      "process.Process/Start",
      start("sh", "-c", "echo out; echo err >&2; exit 3"),
    );
    const [first, ...others] = messages.map(({ event }) => event);
    assert.ok(first.start.pid > 1);
    assert.deepEqual(others.at(-1), {
      end: { exitCode: 3, exited: true, status: "exit status 3", error: "exit status 3" },
    });
    const outputOf = (pipe: string): string =>
      Buffer.concat(others.map(({ data }) => Buffer.from(data?.[pipe] ?? "", "base64"))).toString();
    assert.deepEqual([outputOf("stdout"), outputOf("stderr"), end], ["out\n", "err\n", {}]);
  });

  test("a process is found after its client has left, even when the process has ended", async () => {
    const left = new AbortController();
    const response = await inside("/process.Process/Start", {
      method: "POST",
      body: enveloped({ ...start("sh", "-c", "read line; exit 7"), stdin: true, tag: "mine" }),
      signal: left.signal,
    });
    const reader = response.body!.getReader();
    const { value } = await reader.read();
    const { pid } = JSON.parse(Buffer.from(messageIn(value ?? new Uint8Array()).bytes).toString()).event.start as {
      pid: number;
    };
    left.abort();
    const listed = (await rpc(inside, "process.Process/List", {}))[1].processes as { pid: number; tag?: string }[];
    assert.deepEqual(
      listed.filter((process) => process.pid === pid).map(({ tag }) => tag),
      ["mine"],
    );
    const input = { process: { pid }, input: { stdin: Buffer.from("line\n").toString("base64") } };
    assert.deepEqual(await rpc(inside, "process.Process/SendInput", input), [200, {}]);
    for (const selector of [{ pid }, { tag: "mine" }]) {
      const { messages } = await streamed(inside, "process.Process/Connect", { process: selector });
      assert.deepEqual(messages[0], { event: { start: { pid } } });
      assert.equal(messages.at(-1).event.end.exitCode, 7);
    }
    const signal = { process: { pid }, signal: "SIGNAL_SIGKILL" };
    assert.deepEqual((await rpc(inside, "process.Process/SendSignal", signal))[1].code, "not_found");
  });

  test("SIGKILL ends a process at once, and other signals are refused", async () => {
    const running = streamed(inside, "process.Process/Start", { ...start("sleep", "1000"), tag: "sleeper" });
    const process = { tag: "sleeper" };
    const signalled = (signal: string): Promise<[number, Json]> =>
      rpc(inside, "process.Process/SendSignal", { process, signal });
    await eventually("the process is known", async () => (await signalled("SIGNAL_SIGKILL"))[0] === 200);
    const { messages } = await running;
    assert.deepEqual(messages.at(-1).event.end.exitCode, -1);
    assert.deepEqual((await signalled("SIGNAL_SIGUSR1"))[1].code, "unimplemented");
    assert.deepEqual(
      await rpc(inside, "process.Process/SendSignal", { process: { pid: 1 }, signal: "SIGNAL_SIGKILL" }),
      [404, { code: "not_found", message: "process with pid 1 not found" }],
    );
  });

  test("a process that exceeds its deadline ends, and the stream says so", async () => {
    const { end } = await streamed(inside, "process.Process/Start", start("sleep", "1000"), {
      "connect-timeout-ms": "200",
    });
    assert.equal(end.error.code, "deadline_exceeded");
  });

  test("a silent process is kept alive at the interval that the client asks for", async () => {
    const headers = { "keepalive-ping-interval": "1" };
    const { messages } = await streamed(inside, "process.Process/Start", start("sleep", "2.5"), headers);
    const kept = messages.filter(({ event }) => event.keepalive !== undefined);
    assert.ok(kept.length === 2, `${kept.length} keep-alives`);
  });

  test("failures before a process starts have the codes that clients know", async () => {
    const unknown = await streamed(inside, "process.Process/Start", start("no-such-program"));
    assert.equal(unknown.end.error.code, "not_found");
    const user = `Basic ${Buffer.from("nobody-of-this-name:").toString("base64")}`;
    const response = await inside("/process.Process/Start", {
      method: "POST",
      body: enveloped(start("true")),
      headers: { authorization: user },
    });
    assert.deepEqual(
      [response.status, await response.json()],
      [401, { code: "unauthenticated", message: "invalid username: 'nobody-of-this-name'" }],
    );
    assert.equal((await inside("/process.Process/Nothing", { method: "POST" })).status, 404);
    assert.equal((await rpc(inside, "process.Process/SendInput", { process: 7 }))[0], 400);
  });

  test("no call reaches the inside of a sandbox without its token", async () => {
    const stranger = insideOf(world, { ...created, envdAccessToken: "" });
    for (const [method, path] of [
      ["POST", "/process.Process/List"],
      ["POST", "/process.Process/Start"],
      ["POST", "/filesystem.Filesystem/Stat"],
      ["GET", "/files?path=/note"],
      ["POST", "/files?path=/note"],
      ["GET", "/envs"],
      ["GET", "/metrics"],
    ] as const) {
      assert.equal((await stranger(path, { method })).status, 401, path);
    }
    const unknown = insideOf(world, { ...created, sandboxID: "sb-0000000000000000" });
    const response = await unknown("/process.Process/List", { method: "POST" });
    assert.deepEqual(
      [response.status, await response.json()],
      [502, { sandboxId: "sb-0000000000000000", message: "The sandbox was not found", code: 502 }],
    );
  });

  test("files are written as a form, as a body and compressed, and are read whole, in part and compressed", async () => {
    const form = new FormData();
    form.append("file", new Blob(["one"]), "dir/a b.txt");
    form.append("file", new Blob(["two"]), "/tmp/b");
    const written = await inside("/files", { method: "POST", body: form });
    assert.deepEqual(await written.json(), [
      { name: "a b.txt", path: "/home/sandbox/dir/a b.txt", type: "file" },
      { name: "b", path: "/tmp/b", type: "file" },
    ]);
    const plain = new FormData();
    plain.append("file", "a field");
    await inside("/files?path=/tmp/c", { method: "POST", body: plain });
    await inside("/files?path=/tmp/d", {
      method: "POST",
      body: new Uint8Array(gzipSync("compressed")),
      headers: { "content-encoding": "gzip", "content-type": "application/octet-stream" },
    });
    const textOf = async (path: string, headers = {}): Promise<string> =>
      await (await inside(`/files?path=${encodeURIComponent(path)}`, { headers })).text();
    assert.deepEqual(
      [await textOf("dir/a b.txt"), await textOf("/tmp/b"), await textOf("~/../../tmp/c"), await textOf("/tmp/d")],
      ["one", "two", "a field", "compressed"],
    );
    assert.equal(await textOf("/tmp/d", { range: "bytes=1-3" }), "omp");
    const raw = await new Promise<Buffer>((resolve, reject) => {
      const headers = { "e2b-sandbox-id": created.sandboxID, "x-access-token": created.envdAccessToken };
      startRequest(
        `${world.url}/files?path=/tmp/d`,
        { headers: { ...headers, "accept-encoding": "gzip" } },
        (response) => {
          const chunks: Buffer[] = [];
          response.on("data", (chunk: Buffer) => chunks.push(chunk));
          response.on("end", () => resolve(Buffer.concat(chunks)));
        },
      )
        .on("error", reject)
        .end();
    });
    assert.equal(gunzipSync(raw).toString(), "compressed");
    for (const [path, status] of [
      ["/nothing", 404],
      ["/tmp", 400],
    ] as const) {
      const response = await inside(`/files?path=${path}`);
      assert.deepEqual([response.status, ((await response.json()) as Json).code], [status, status]);
    }
    const full = await inside("/files?path=/full/a", { method: "POST", body: "x" });
    assert.deepEqual([full.status, ((await full.json()) as Json).code], [507, 507]);
  });

  test("a signed URL opens one file until it expires, without naming its sandbox", async () => {
    await inside("/files?path=/tmp/signed", { method: "POST", body: "content" });
    const url = { path: "/tmp/signed", operation: "read", username: "", token: created.envdAccessToken } as const;
    const at = (expiration: number | undefined, over: object = {}): string => {
      const own = { ...url, expiration: expiration === undefined ? undefined : `${expiration}` };
      const query = new URLSearchParams({ path: url.path, signature: signatureOf({ ...own, ...over }) });
      if (expiration !== undefined) query.set("signature_expiration", `${expiration}`);
      return `${world.url}/files?${query.toString()}`;
    };
    const later = Math.floor(Date.now() / 1000) + 60;
    assert.equal(await (await fetch(at(undefined))).text(), "content");
    assert.equal(await (await fetch(at(later))).text(), "content");
    const expired = await fetch(at(later - 120));
    assert.deepEqual(
      [expired.status, await expired.json()],
      [401, { code: 401, message: "signature is already expired" }],
    );
    for (const wrong of [at(later, { operation: "write" }), at(later, { path: "/tmp/other" })]) {
      const response = await fetch(wrong);
      assert.deepEqual([response.status, await response.json()], [401, { code: 401, message: "invalid signature" }]);
    }
  });

  test("entries are described, listed, moved and removed", async () => {
    const call = (method: string, body: object): Promise<[number, Json]> =>
      rpc(inside, `filesystem.Filesystem/${method}`, body);
    await inside("/files?path=/work/b/two", { method: "POST", body: "22" });
    await inside("/files?path=/work/one", { method: "POST", body: "1" });
    const [, { entry }] = await call("Stat", { path: "/work/one" });
    assert.deepEqual(
      [entry.name, entry.type, entry.size, entry.permissions],
      ["one", "FILE_TYPE_FILE", "1", "-rw-r--r--"],
    );
    const namesTo = async (depth: number): Promise<string[]> =>
      (await call("ListDir", { path: "/work", depth }))[1].entries.map(({ path }: { path: string }) => path).toSorted();
    assert.deepEqual(await namesTo(1), ["/work/b", "/work/one"]);
    assert.deepEqual(await namesTo(2), ["/work/b", "/work/b/two", "/work/one"]);
    assert.equal((await call("ListDir", { path: "/work/one" }))[1].code, "invalid_argument");
    assert.equal((await call("Stat", { path: "/work/none" }))[1].code, "not_found");
    assert.equal((await call("MakeDir", { path: "/work/b" }))[1].code, "already_exists");
    assert.equal((await call("MakeDir", { path: "/work/one" }))[1].code, "invalid_argument");
    assert.equal((await call("Move", { source: "/work/one", destination: "/work/uno" }))[1].entry.name, "uno");
    assert.deepEqual(await call("Remove", { path: "/work/uno" }), [200, {}]);
    assert.deepEqual(await call("Remove", { path: "/work/uno" }), [200, {}]);
  });

  test("changes in a directory arrive on a stream, and by polling", async () => {
    await inside("/files?path=/watched/old", { method: "POST", body: "1" });
    await inside("/files?path=/watched/new", { method: "POST", body: "1" });
    world.worker.changes.set("/watched", [
      [
        { kind: "created", path: "/watched/.opensandbox-0123456789abcdef" },
        { kind: "created", path: "/watched/old" },
        { kind: "removed", path: "/watched/old" },
        { kind: "created", path: "/watched/old" },
      ],
    ]);
    const [, { watcherId }] = await rpc(inside, "filesystem.Filesystem/CreateWatcher", { path: "/watched" });
    const take = async (): Promise<Json[]> =>
      (await rpc(inside, "filesystem.Filesystem/GetWatcherEvents", { watcherId }))[1].events;
    const events = await eventually("the changes are there", async () => {
      const taken = await take();
      return taken.length === 0 ? undefined : taken;
    });
    assert.deepEqual(events, [
      { name: "old", type: "EVENT_TYPE_WRITE" },
      { name: "old", type: "EVENT_TYPE_REMOVE" },
      { name: "old", type: "EVENT_TYPE_CREATE" },
      { name: "old", type: "EVENT_TYPE_WRITE" },
    ]);
    assert.deepEqual(await take(), []);
    assert.deepEqual(await rpc(inside, "filesystem.Filesystem/RemoveWatcher", { watcherId }), [200, {}]);
    assert.equal((await rpc(inside, "filesystem.Filesystem/GetWatcherEvents", { watcherId }))[1].code, "not_found");
  });

  test("every process has the variables of the create", async () => {
    assert.deepEqual(await (await inside("/envs")).json(), { FROM_CREATE: "yes" });
  });
});

suite("ports of a sandbox, as E2B's clients reach them", () => {
  test("a closed port, an unknown sandbox and a missing token have the answers that clients know", async () => {
    await using world = await startForTest();
    const [, open] = await world.ask("POST", "/v2/sandboxes", {});
    const [, guarded] = await world.ask("POST", "/v2/sandboxes", { network: { allowPublicTraffic: false } });
    const ask = async (id: string, headers: Record<string, string> = {}): Promise<[number, Json]> => {
      const response = await fetch(world.url, {
        headers: { "e2b-sandbox-id": id, "e2b-sandbox-port": "9", ...headers },
      });
      return [response.status, await response.json()];
    };
    assert.deepEqual(await ask(open.sandboxID), [
      502,
      { sandboxId: open.sandboxID, message: "The sandbox is running but port is not open", port: 9, code: 502 },
    ]);
    assert.equal((await ask("sb-0000000000000000"))[1].message, "The sandbox was not found");
    assert.equal((await ask(guarded.sandboxID))[0], 403);
    assert.equal((await ask(guarded.sandboxID, { "e2b-traffic-access-token": "wrong" }))[0], 403);
    const { host: address } = new URL(world.url);
    assert.equal(open.domain, `sandbox.test:${new URL(world.url).port}`);
    const byName = await new Promise<number>((resolve, reject) => {
      const host = `9-${open.sandboxID}.${open.domain}`;
      startRequest(`http://${address}/`, { headers: { host } }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      })
        .on("error", reject)
        .end();
    });
    assert.equal(byName, 502);
    const token = guarded.trafficAccessToken as string;
    assert.equal((await ask(guarded.sandboxID, { "e2b-traffic-access-token": token }))[0], 502);
  });
});

test("a server in a sandbox receives requests without this server's headers and keys", async () => {
  await using world = await startForTest();
  const [, { sandboxID: id }] = await world.ask("POST", "/v2/sandboxes", { network: { allowPublicTraffic: false } });
  const [, { trafficAccessToken }] = await world.ask("POST", "/v2/sandboxes", {
    network: { allowPublicTraffic: false },
  });
  const server = createServer((request, response) => response.end(JSON.stringify(request.headers)));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const { port } = server.address() as AddressInfo;
    const [, own] = await world.ask("POST", "/v2/sandboxes", {});
    const key = `e2b_${"0123456789abcdef".repeat(4)}`;
    const headers = {
      ...{ "e2b-sandbox-id": own.sandboxID as string, "e2b-sandbox-port": `${port}`, "x-kept": "yes" },
      ...{ "e2b-traffic-access-token": trafficAccessToken as string, "x-api-key": key, authorization: `Bearer ${key}` },
    };
    const seen = (await (await fetch(world.url, { headers })).json()) as Record<string, string>;
    assert.equal(seen["x-kept"], "yes");
    for (const name of [
      "e2b-sandbox-id",
      "e2b-sandbox-port",
      "e2b-traffic-access-token",
      "x-api-key",
      "authorization",
    ]) {
      assert.equal(seen[name], undefined, name);
    }
    const wrong = await fetch(world.url, { headers: { ...headers, "e2b-sandbox-id": id as string } });
    assert.equal(wrong.status, 403);
  } finally {
    server.close();
  }
});

suite("the set end of a sandbox", () => {
  test("deletes it even while it is busy, or pauses it", async () => {
    const clock = new ManualClock();
    await using world = await startForTest({ tuning: { clock, sweepMs: 20 } });
    const [, killed] = await world.ask("POST", "/v2/sandboxes", { timeout: 60 });
    const [, paused] = await world.ask("POST", "/v2/sandboxes", { timeout: 60, autoPause: true });
    const inside = insideOf(world, killed);
    const busy = inside("/process.Process/Start", { method: "POST", body: enveloped(start("sleep", "1000")) });
    const broken = busy
      .then((response) => response.arrayBuffer())
      .then(
        () => "complete",
        () => "cut",
      );
    clock.advance(59);
    assert.equal((await inside("/health")).status, 204);
    clock.advance(2);
    await eventually("the sandbox is gone", async () => (await inside("/health")).status === 502);
    assert.equal(await broken, "cut");
    assert.equal((await world.ask("GET", `/sandboxes/${killed.sandboxID}`))[0], 404);
    await eventually("the other one is paused", async () => {
      return (await world.ask("GET", `/sandboxes/${paused.sandboxID}`))[1].state === "paused";
    });
  });

  test("outlives a server that hibernates its sandboxes, which the next call wakes", async () => {
    const clock = new ManualClock();
    const first = await startForTest({ tuning: { clock, sweepMs: 20 } });
    await using _ = first;
    const [, created] = await first.ask("POST", "/v2/sandboxes", { timeout: 60 });
    const { sandboxID: id } = created as Started;
    await first.ask("POST", `/api/sandboxes/${id}/hibernate`);
    const before = (await first.ask("GET", `/sandboxes/${id}`))[1];
    assert.equal(before.state, "running");
    await using second = await startAfterCrash(first, { tuning: { clock, sweepMs: 20 } });
    const inside = insideOf(second, created);
    assert.equal((await rpc(inside, "process.Process/List", {}))[0], 200);
    assert.equal((await second.ask("GET", `/sandboxes/${id}`))[1].endAt, before.endAt);
    clock.advance(61);
    await eventually("the sandbox is gone", async () => (await inside("/health")).status === 502);
  });

  test("does not end a paused sandbox that another client wakes afterwards", async () => {
    const clock = new ManualClock();
    await using world = await startForTest({ tuning: { clock, sweepMs: 20 } });
    const [, { sandboxID: id }] = await world.ask("POST", "/v2/sandboxes", { timeout: 60 });
    await world.ask("POST", `/sandboxes/${id}/pause`, {});
    clock.advance(100);
    assert.equal((await world.ask("POST", `/api/sandboxes/${id}/wake`, {}))[0], 200);
    await eventually("the sandbox has a new end", async () => {
      const { state, endAt } = (await world.ask("GET", `/sandboxes/${id}`))[1];
      return state === "running" && Date.parse(endAt) > clock.now();
    });
  });
});
