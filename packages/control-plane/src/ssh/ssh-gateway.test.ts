import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { after, before, suite, test } from "node:test";
import { newSandboxId } from "@opensandbox/wire/ids.ts";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import ssh2 from "ssh2";
import { startForTest, type TestControlPlane } from "#testing/start-for-test.ts";

// Clients that break the protocol or use it to exhaust the server. tests/e2e/ssh.process.test.ts has OpenSSH's own.

/** Parts of the library's client that send what a well-behaved one would not. */
interface Internals {
  readonly _protocol: {
    session(id: number, window: number, packetSize: number): void;
    exec(channel: number, command: string, wantReply: boolean): void;
    env(channel: number, name: string, value: string, wantReply: boolean): void;
    rekey(): void;
    readonly _handlers: Record<string, (...values: unknown[]) => void>;
  };
}

suite("hostile clients of the SSH gateway", () => {
  const stack = new AsyncDisposableStack();
  const keys = ssh2.utils.generateKeyPairSync("ed25519");
  let world: TestControlPlane;
  let port: number;
  let sandbox: string;
  before(async () => {
    const ssh = { strangers: 10, strangersOfAddress: 5, loginMs: 1500, attempts: 3 };
    world = stack.use(await startForTest({ ssh: { host: "127.0.0.1", port: 0 }, tuning: { ssh, revokedMs: 50 } }));
    [, { port }] = await world.ask("GET", "/api/ssh");
    assert.equal((await world.ask("POST", "/api/ssh-keys", { publicKey: keys.public }))[0], 201);
    sandbox = await world.create();
  });
  after(() => stack.disposeAsync());

  async function connected(username = sandbox): Promise<ssh2.Client & Internals & AsyncDisposable> {
    const client = new ssh2.Client();
    // A connection that the server ends is an error for the client.
    client.on("error", () => undefined);
    client.connect({ host: "127.0.0.1", port, username, privateKey: keys.private });
    await within("the connection", once(client, "ready"));
    return Object.assign(client as ssh2.Client & Internals, {
      [Symbol.asyncDispose]: async () => void client.destroy(),
    });
  }

  const closed = (client: ssh2.Client): Promise<unknown> => within("the connection ends", once(client, "close"));

  /** A connection as it arrives. */
  async function raw(): Promise<Socket> {
    const socket = connect(port, "127.0.0.1").on("error", () => undefined);
    await within("the connection", once(socket, "connect"));
    return socket;
  }

  /** The server still serves a client that behaves. */
  async function stillServes(): Promise<void> {
    await using client = await connected();
    const channel = await new Promise<ssh2.ClientChannel>((resolve, reject) => {
      client.exec("cat", (error, opened) => (error ? reject(error) : resolve(opened)));
    });
    channel.end("served");
    assert.equal(String(await within("the answer", once(channel, "data"))), "served");
  }

  /** Opens a session whose answer the test handles itself. Returns the server's id of it. */
  async function session(client: Internals, window = 2 ** 21, packetSize = 32_768): Promise<number> {
    const opened = Promise.withResolvers<number>();
    client._protocol._handlers["CHANNEL_OPEN_CONFIRMATION"] = (_protocol, info) =>
      opened.resolve((info as { sender: number }).sender);
    client._protocol.session(1000, window, packetSize);
    return await within("the session is answered", opened.promise);
  }

  test("a client that wants packets of no bytes is disconnected", async () => {
    await using client = await connected();
    const channel = await session(client, 2 ** 21, 0);
    const end = closed(client);
    client._protocol.exec(channel, "echo text", false);
    await end;
    await stillServes();
  });

  test("a connection has a bounded number of channels", async () => {
    await using client = await connected();
    const answers = { accepted: 0, refused: 0 };
    client._protocol._handlers["CHANNEL_OPEN_CONFIRMATION"] = () => (answers.accepted += 1);
    client._protocol._handlers["CHANNEL_OPEN_FAILURE"] = () => (answers.refused += 1);
    for (let count = 0; count < 150; count += 1) client._protocol.session(count, 2 ** 21, 32_768);
    await eventually("every channel is answered", () => answers.accepted + answers.refused === 150);
    assert.equal(answers.accepted, 100);
    await stillServes();
  });

  test("variables of a client are bounded", async () => {
    await using client = await connected();
    const channel = await session(client);
    for (let count = 0; count < 200; count += 1) client._protocol.env(channel, `V${count}`, "x".repeat(1000), false);
    client._protocol.env(channel, "A=B", "x", false);
    const output = Promise.withResolvers<string>();
    let text = "";
    client._protocol._handlers["CHANNEL_DATA"] = (_protocol, _channel, bytes) => {
      text += String(bytes);
      if (text.includes("\n")) output.resolve(text);
    };
    client._protocol.exec(channel, "env | grep -c '^V[0-9]'", false);
    assert.equal((await within("the answer", output.promise)).trim(), "32");
  });

  test("a client has a number of attempts and learns nothing from them", async () => {
    for (const username of [sandbox, newSandboxId(), "root", "", "x".repeat(10_000)]) {
      const client = new ssh2.Client();
      const refused = new Promise<Error>((resolve) => client.once("error", resolve));
      const { private: privateKey } = ssh2.utils.generateKeyPairSync("ed25519");
      client.connect({ host: "127.0.0.1", port, username: username || " ", privateKey });
      assert.match((await within("the refusal", refused)).message, /authentication methods failed/);
      client.destroy();
    }
    const client = new ssh2.Client();
    let attempts = 0;
    const end = new Promise<void>((resolve) => client.on("error", () => undefined).once("close", () => resolve()));
    client.connect({
      ...{ host: "127.0.0.1", port, username: sandbox },
      authHandler: (_methods, _partial, next) => {
        attempts += 1;
        next({ type: "password", username: sandbox, password: `${attempts}` });
      },
    });
    await within("the connection ends", end);
    assert.ok(attempts <= 4, `${attempts} attempts`);
    await stillServes();
  });

  test("a signature of another key or a malformed one proves nothing", async () => {
    const parsed = ssh2.utils.parseKey(keys.private);
    const other = ssh2.utils.parseKey(ssh2.utils.generateKeyPairSync("ed25519").private);
    assert.ok(!(parsed instanceof Error) && !(other instanceof Error));
    const signatures = [
      (data: Buffer) => other.sign(data),
      () => Buffer.alloc(64),
      () => Buffer.alloc(0),
      () => Buffer.alloc(3, 255),
    ];
    for (const sign of signatures) {
      const client = new ssh2.Client();
      let isReady = false;
      client.once("ready", () => (isReady = true));
      const refused = new Promise<void>((resolve) =>
        client.on("error", () => undefined).once("close", () => resolve()),
      );
      // The library signs with this object instead of the key.
      const key = Object.assign(Object.create(parsed) as object, { sign });
      client.connect({
        host: "127.0.0.1",
        port,
        username: sandbox,
        authHandler: (_methods, _partial, next) => {
          next({ type: "publickey", username: sandbox, key: key as unknown as ssh2.ParsedKey });
        },
      });
      await within("the refusals", refused);
      assert.equal(isReady, false);
    }
    await stillServes();
  });

  test("bytes that are not SSH end the connection", async () => {
    for (const bytes of [
      "GET / HTTP/1.1\r\n\r\n",
      "SSH-2.0-x\r\n",
      "SSH-1.5-old\r\n",
      "\0".repeat(100_000),
      "x".repeat(300_000),
    ]) {
      const socket = await raw();
      socket.on("data", () => undefined);
      socket.write(bytes);
      socket.write(Buffer.from(Array.from({ length: 5000 }, (_, index) => (index * 7919) % 256)));
      await within(`${JSON.stringify(bytes.slice(0, 10))} ends`, once(socket, "close"));
    }
    await stillServes();
  });

  test("a client that does not authenticate is disconnected, and few may try at once", async () => {
    const sockets = await Promise.all(Array.from({ length: 8 }, raw));
    for (const socket of sockets) socket.on("data", () => undefined);
    await eventually(
      "those beyond the bound are refused",
      () => sockets.filter(({ closed: gone }) => gone).length >= 3,
    );
    await within(
      "the others end at the deadline",
      Promise.all(sockets.map(async (socket) => socket.closed || (await once(socket, "close")))),
    );
    await stillServes();
  });

  test("keys are exchanged again before authentication by nobody", async () => {
    const client = new ssh2.Client() as ssh2.Client & Internals;
    client.on("error", () => undefined);
    const end = closed(client);
    client.connect({
      ...{ host: "127.0.0.1", port, username: sandbox },
      authHandler: () => client._protocol.rekey(),
    });
    await end;
    await stillServes();
  });

  test("public keys are judged before they are stored", async () => {
    const rsa = ssh2.utils.generateKeyPairSync("rsa", { bits: 1024 }).public;
    const [type = "", blob = ""] = keys.public.split(" ");
    const refused: [string, RegExp][] = [
      [keys.private, /private key/],
      [rsa, /1024 bits/],
      ["", /publicKey is required/],
      ["x".repeat(20_000), /publicKey is required/],
      [`ssh-rsa ${blob}`, /type and content differ/],
      [`${type} ${blob.slice(0, -8)}`, /malformed/],
      [`${type} !!!!`, /malformed/],
      [`${keys.public}\n${keys.public}`, /malformed/],
      [`ssh-dss ${Buffer.from("\0\0\0\x07ssh-dss").toString("base64")}`, /not supported/],
      [`command="x" ${keys.public}`, /malformed/],
    ];
    for (const [publicKey, message] of refused) {
      const [status, reply] = await world.ask("POST", "/api/ssh-keys", { publicKey });
      assert.equal(status, 400, publicKey.slice(0, 40));
      assert.match(reply.error, message);
    }
    assert.equal((await world.ask("POST", "/api/ssh-keys", { publicKey: keys.public }))[0], 409);
    assert.equal((await world.ask("DELETE", "/api/ssh-keys/nothing"))[0], 404);
  });
});
