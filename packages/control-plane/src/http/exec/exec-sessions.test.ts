import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { suite, test } from "node:test";
import { decodeServerFrame, encodeClientFrame } from "@opensandbox/wire/public/guests/exec-sessions.ts";
import { WebSocket } from "ws";
import { openDatabase } from "#database/database.ts";
import { defaultOrganizationId } from "#organizations/api-keys.ts";
import { eventOf, eventually } from "@opensandbox/wire/testing/eventually.ts";
import { ManualClock } from "#testing/manual-clock.ts";
import { startForTest, testKey, type TestOptions } from "#testing/start-for-test.ts";

async function setUp(tuning: TestOptions["tuning"] = {}) {
  const world = await startForTest({ tuning });
  const id = await world.create();
  const at = `/api/sandboxes/${id}`;
  const start = async (body: object): Promise<string> => {
    const [status, reply] = await world.ask("POST", `${at}/exec`, body);
    assert.equal(status, 201, JSON.stringify(reply));
    return reply.sessionID;
  };
  return { world, id, at, start, attach, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() };

  function attach(path: string) {
    return listenTo(new WebSocket(`${world.url.replace("http", "ws")}${at}${path}?api_key=${testKey}`));
  }
}

function listenTo(socket: WebSocket) {
  const client = { socket, opened: once(socket, "open"), messages: [] as Buffer[], closed: closing(socket) };
  socket.on("message", (data: Buffer) => client.messages.push(data));
  return client;
}

/** The code, and what was refused instead of a WebSocket. */
async function closing(socket: WebSocket): Promise<number> {
  socket.on("error", () => {});
  const [code] = (await eventOf(socket, "close")) as [number];
  return code;
}

const stdin = (text: string) => encodeClientFrame({ kind: "stdin", bytes: Buffer.from(text) });
const stdinEnd = encodeClientFrame({ kind: "stdin end" });

/** The frames as text: pipes joined, the others by name. */
function framesOf(messages: readonly Buffer[]): string[] {
  const words: string[] = [];
  let last = "";
  for (const message of messages) {
    const frame = decodeServerFrame(message) ?? assert.fail(`unknown frame ${message.toString("hex")}`);
    if (frame.pipe === "stdout" || frame.pipe === "stderr") {
      const text = Buffer.from(frame.bytes).toString();
      if (last === frame.pipe) words[words.length - 1] += text;
      else words.push(`${frame.pipe}: ${text}`);
    } else {
      words.push(frame.pipe === "exit" ? `exit ${frame.exitCode}` : frame.pipe);
    }
    last = frame.pipe;
  }
  return words;
}

suite("exec sessions", () => {
  test("are started, and listed with their exit code until five minutes after their end", async () => {
    const clock = new ManualClock();
    await using given = await setUp({ clock });
    const { world, at } = given;
    world.worker.now = () => clock.now();
    const [status, session] = await world.ask("POST", `${at}/exec`, { cmd: "cat", args: ["-u"], envs: { A: "b" } });
    assert.equal(status, 201);
    const { sessionID, startedAt, ...rest } = session;
    assert.match(sessionID, /^[0-9a-f]{8}$/);
    assert.ok(Date.parse(startedAt) > 0);
    assert.deepEqual(rest, {
      sandboxID: given.id,
      command: "cat",
      args: ["-u"],
      running: true,
      attachedClients: 0,
      pty: false,
    });
    const list = async () => (await world.ask("GET", `${at}/exec`))[1];
    assert.equal((await list())[0].sessionID, sessionID);
    assert.equal((await world.call("POST", `${at}/exec/${sessionID}/kill`, { signal: 15 })).status, 204);
    await eventually("it ends", async () => !(await list())[0].running);
    assert.equal((await list())[0].exitCode, -1);
    clock.advance(299);
    assert.equal((await list()).length, 1);
    clock.advance(1);
    assert.deepEqual(await list(), []);
  });

  test("a client receives the scrollback, its end, new output, the exit code, and a normal close", async () => {
    await using given = await setUp();
    const session = await given.start({ cmd: "echo before; read line; echo got $line; echo err >&2; exit 7" });
    const path = `/exec/${session}`;
    await eventually("it has written", async () => {
      const watching = given.attach(path);
      await watching.opened;
      await eventually("the scrollback ends", () => watching.messages.some(([kind]) => kind === 4));
      watching.socket.terminate();
      return watching.messages.length === 2;
    });
    const client = given.attach(path);
    await client.opened;
    client.socket.send(stdin("on\n"));
    assert.equal(await client.closed, 1000);
    assert.deepEqual(framesOf(client.messages), [
      "stdout: before\n",
      "scrollback end",
      "stdout: got on\n",
      "stderr: err\n",
      "exit 7",
    ]);
    const late = given.attach(path);
    assert.equal(await late.closed, 1000);
    assert.deepEqual(framesOf(late.messages), [
      "stdout: before\ngot on\n",
      "stderr: err\n",
      "scrollback end",
      "exit 7",
    ]);
  });

  test("a session without output also marks the end of its scrollback", async () => {
    await using given = await setUp();
    const client = given.attach(`/exec/${await given.start({ cmd: "exec sleep 100" })}`);
    await eventually("the frame arrives", () => client.messages.length > 0);
    assert.deepEqual(framesOf(client.messages), ["scrollback end"]);
  });

  test("several clients read and write, one that leaves ends nothing, and garbage is ignored", async () => {
    await using given = await setUp();
    const path = `/exec/${await given.start({ cmd: "cat" })}`;
    const [first, second] = [given.attach(path), given.attach(path)];
    await Promise.all([first.opened, second.opened]);
    const [, sessions] = await given.world.ask("GET", `${given.at}/exec`);
    assert.equal(sessions[0].attachedClients, 2);
    for (const garbage of [
      new Uint8Array(),
      Uint8Array.of(9, 9, 9),
      Uint8Array.of(1),
      "text",
      "",
      Buffer.alloc(100_000, 7),
    ]) {
      first.socket.send(garbage);
    }
    first.socket.send(stdin("one\n"));
    await eventually("it is echoed", () => framesOf(second.messages).join().includes("one"));
    first.socket.terminate();
    await first.closed;
    second.socket.send(stdin("two\n"));
    second.socket.send(stdinEnd);
    assert.equal(await second.closed, 1000);
    assert.deepEqual(framesOf(second.messages), ["scrollback end", "stdout: one\ntwo\n", "exit 0"]);
  });

  test("when the line to the guest breaks, the close is not normal and carries no exit code", async () => {
    await using given = await setUp();
    const client = given.attach(`/exec/${await given.start({ cmd: "exec sleep 100" })}`);
    await eventually("it is attached", () => client.messages.length > 0);
    given.world.worker.loseLines(given.id);
    assert.equal(await client.closed, 1011);
    assert.deepEqual(framesOf(client.messages), ["scrollback end"]);
  });

  test("traffic of a client keeps the sandbox from being idle, a silent connection does not", async () => {
    const clock = new ManualClock();
    await using given = await setUp({ clock, sweepMs: 5 });
    await given.world.call("POST", `${given.at}/timeout`, { timeout: 60 });
    const client = given.attach(`/exec/${await given.start({ cmd: "cat" })}`);
    await client.opened;
    for (let times = 0; times < 3; times += 1) {
      clock.advance(50);
      client.socket.send(stdin(`${times}\n`));
      await eventually("it is echoed", () => framesOf(client.messages).join().includes(`${times}\n`));
    }
    assert.equal((await given.world.get(given.id)).status, "running");
    clock.advance(61);
    await eventually("it sleeps", async () => (await given.world.get(given.id)).status === "hibernated");
  });

  test("an hour of silence ends neither a session nor a connection to it", async () => {
    const clock = new ManualClock();
    await using given = await setUp({ clock, sweepMs: 5 });
    const { world, at, id } = given;
    const witness = await world.create();
    await world.call("POST", `${at}/timeout`, { timeout: 0 });
    const session = await given.start({ cmd: "echo before; exec cat" });
    await eventually("it has written", () => world.worker.sessions(id).get(session).info().stdoutBytes > 0);
    const silent = given.attach(`/exec/${session}`);
    await eventually("it is attached", () => silent.messages.some(([kind]) => kind === 4));
    clock.advance(3600);
    await eventually("one that may be put away is", async () => (await world.get(witness)).status === "hibernated");
    assert.equal((await world.get(id)).status, "running");
    const [, sessions] = await world.ask("GET", `${at}/exec`);
    assert.deepEqual([sessions[0].running, sessions[0].attachedClients], [true, 1]);
    const late = given.attach(`/exec/${session}`);
    await late.opened;
    late.socket.send(stdin("after\n"));
    late.socket.send(stdinEnd);
    assert.deepEqual(await Promise.all([silent.closed, late.closed]), [1000, 1000]);
    for (const { messages } of [silent, late]) {
      assert.deepEqual(framesOf(messages), ["stdout: before\n", "scrollback end", "stdout: after\n", "exit 0"]);
    }
  });

  test("a client that returns after hibernation wakes the session and receives its scrollback", async () => {
    const clock = new ManualClock();
    await using given = await setUp({ clock, sweepMs: 5 });
    const { world, id } = given;
    world.worker.onHibernate = async () => world.worker.loseLines(id);
    const session = await given.start({ cmd: "echo before; exec cat" });
    await eventually("it has written", () => world.worker.sessions(id).get(session).info().stdoutBytes > 0);
    const silent = given.attach(`/exec/${session}`);
    await eventually("it is attached", () => silent.messages.some(([kind]) => kind === 4));
    clock.advance(3600);
    assert.equal(await silent.closed, 1011);
    await eventually("it sleeps", async () => (await world.get(id)).status === "hibernated");
    const back = given.attach(`/exec/${session}`);
    await back.opened;
    back.socket.send(stdin("after\n"));
    back.socket.send(stdinEnd);
    assert.equal(await back.closed, 1000);
    assert.deepEqual(framesOf(back.messages), ["stdout: before\n", "scrollback end", "stdout: after\n", "exit 0"]);
    assert.equal((await world.get(id)).status, "running");
  });

  test("revoking a key blocks new requests, not open streams", async () => {
    await using world = await startForTest({ storedKeys: true });
    const database = await openDatabase(world.database);
    const row = {
      id: "k",
      organization_id: defaultOrganizationId,
      name: "of the test",
      key_hash: createHash("sha256").update(testKey).digest("hex"),
      key_prefix: testKey.slice(0, 8),
      created_at: 0,
    };
    await database.insertInto("api_keys").values(row).execute();
    const at = `/api/sandboxes/${await world.create()}/exec`;
    const [, { sessionID }] = await world.ask("POST", at, { cmd: "cat" });
    const url = `${world.url.replace("http", "ws")}${at}/${sessionID}?api_key=${testKey}`;
    const client = listenTo(new WebSocket(url));
    await client.opened;
    await database.deleteFrom("api_keys").where("id", "=", row.id).execute();
    await database.destroy();
    const stranger = new WebSocket(url);
    stranger.on("error", () => {});
    const [, { statusCode }] = (await eventOf(stranger, "unexpected-response")) as [unknown, { statusCode: number }];
    stranger.terminate();
    assert.equal(statusCode, 403);
    client.socket.send(stdin("still here\n"));
    client.socket.send(stdinEnd);
    assert.equal(await client.closed, 1000);
    assert.deepEqual(framesOf(client.messages), ["scrollback end", "stdout: still here\n", "exit 0"]);
  });

  test("errors are answered before the upgrade", async () => {
    await using given = await setUp();
    const refused = async (path: string): Promise<number> => {
      const socket = new WebSocket(`${given.world.url.replace("http", "ws")}${path}`);
      const [, response] = (await eventOf(socket, "unexpected-response")) as [unknown, { statusCode: number }];
      return response.statusCode;
    };
    assert.equal(await refused(`${given.at}/exec/00000000`), 401);
    assert.equal(await refused(`${given.at}/exec/00000000?api_key=${testKey}`), 404);
    assert.equal(await refused(`/api/sandboxes/sb-00000000/exec/00000000?api_key=${testKey}`), 404);
    const { world, at } = given;
    const session = await given.start({ cmd: "exec sleep 100" });
    assert.equal((await world.ask("GET", `${at}/exec/${session}`))[0], 400);
    assert.deepEqual((await world.ask("POST", `${at}/exec/00000000/kill`))[0], 404);
    for (const body of [{}, { cmd: "" }, { cmd: "x", pty: true, cols: 0 }, { cmd: "x", maxRunAfterDisconnect: -1 }]) {
      assert.equal((await world.ask("POST", `${at}/exec`, body))[0], 400, JSON.stringify(body));
    }
    for (const signal of [0, 65, 1.5, "KILL"]) {
      assert.equal((await world.ask("POST", `${at}/exec/${session}/kill`, { signal }))[0], 400);
    }
    assert.equal((await world.call("POST", `${at}/exec/${session}/kill`)).status, 204);
  });
});

suite("terminals", () => {
  test("exchange raw text and bytes, and close normally", async () => {
    await using given = await setUp();
    const { world, at } = given;
    const [status, { sessionID, ...rest }] = await world.ask("POST", `${at}/pty`, { shell: "/bin/cat" });
    assert.equal(status, 201);
    assert.deepEqual(rest, { sandboxID: given.id });
    const client = given.attach(`/pty/${sessionID}`);
    await client.opened;
    client.socket.send("text ü\n");
    client.socket.send(Uint8Array.of(0, 1, 2, 255, 10));
    const all = () => Buffer.concat(client.messages);
    await eventually("it is echoed", () => all().length === 13);
    assert.deepEqual(all(), Buffer.concat([Buffer.from("text ü\n"), Buffer.of(0, 1, 2, 255, 10)]));
    const again = given.attach(`/pty/${sessionID}`);
    await eventually("it is replayed", () => Buffer.concat(again.messages).equals(all()));
    assert.equal((await world.call("DELETE", `${at}/pty/${sessionID}`)).status, 204);
    assert.deepEqual(await Promise.all([client.closed, again.closed]), [1000, 1000]);
    assert.equal((await world.ask("DELETE", `${at}/pty/${sessionID}`))[0], 404);
  });

  test("have a size, which can be changed", async () => {
    await using given = await setUp();
    const { world, at, id } = given;
    const sizeOf = (session: string) => world.worker.sessions(id).get(session).size;
    const [, standard] = await world.ask("POST", `${at}/pty`);
    assert.deepEqual(sizeOf(standard.sessionID), { columns: 80, rows: 24 });
    const [, { sessionID }] = await world.ask("POST", `${at}/pty`, { cols: 100, rows: 30 });
    const resized = await world.call("POST", `${at}/pty/${sessionID}/resize`, { cols: 120, rows: 40 });
    assert.deepEqual([resized.status, await resized.text()], [200, ""]);
    assert.deepEqual(sizeOf(sessionID), { columns: 120, rows: 40 });
    assert.equal((await world.ask("POST", `${at}/pty/00000000/resize`, { cols: 1, rows: 1 }))[0], 404);
    assert.equal((await world.ask("POST", `${at}/pty/${sessionID}/resize`, { cols: 0, rows: 1 }))[0], 400);
    assert.equal((await world.ask("POST", `${at}/pty/${sessionID}/resize`, { cols: 1 }))[0], 400);
  });
});
