import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { once } from "node:events";
import { after, before, suite, test } from "node:test";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import ssh2 from "ssh2";
import { forgetPeak, memoryBytes, spawnServer, type SpawnedServer } from "./spawn-server.ts";
import { type Finished, SshClient, withoutSsh } from "./ssh-client.ts";

// OpenSSH's own clients against a whole server, whose machines are processes of this host.

/** Parts of the library's client that send what a well-behaved one would not. */
interface ClientInternals {
  readonly _protocol: {
    session(id: number, window: number, packetSize: number): void;
    exec(channel: number, command: string): void;
    channelData(channel: number, bytes: Buffer): void;
    _handlers: { CHANNEL_OPEN_CONFIRMATION: (protocol: unknown, info: { sender: number }) => void };
  };
  readonly _sock: Socket;
}

suite("the SSH gateway", { skip: withoutSsh }, () => {
  const stack = new AsyncDisposableStack();
  let server: SpawnedServer;
  let ssh: SshClient;
  let sandbox: string;
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-ssh-"));
    stack.defer(() => rm(directory, { recursive: true, force: true }));
    server = stack.use(
      await spawnServer({
        env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1", OPENSANDBOX_SSH_PORT: "0" },
        stays: true,
        quiet: true,
      }),
    );
    ssh = await SshClient.create(directory, server);
    ({ sandboxID: sandbox } = (await call("POST", "/api/sandboxes", {})) as { sandboxID: string });
    stack.defer(async () => void (await call("DELETE", `/api/sandboxes/${sandbox}`)));
  });
  after(() => stack.disposeAsync());

  async function call(method: string, path: string, body?: object): Promise<unknown> {
    return await ssh.call(method, path, body);
  }

  const run = async (command: string, input = ""): Promise<Finished> =>
    await ssh.run([`${sandbox}@gateway`, command], input);

  test("a command has its own output, errors, input and exit code", async () => {
    const finished = await run("cat; echo err >&2; exit 7", "input");
    assert.deepEqual(finished, { code: 7, stdout: "input", stderr: "err\n" });
  });

  test("a command runs in the user's shell", async () => {
    assert.equal((await run("echo {1..3}")).stdout, "1 2 3\n");
  });

  test("large output and large input arrive whole, on both streams", async () => {
    const input = randomBytes(3_000_000).toString("base64");
    const { stdout, stderr, code } = await run(
      "tee /dev/stderr | sha256sum; head -c 3000000 /dev/zero | tr '\\0' x",
      input,
    );
    const hash = createHash("sha256").update(input).digest("hex");
    assert.deepEqual([code, stdout.slice(0, 64), stdout.length], [0, hash, 68 + 3_000_000]);
    assert.equal(createHash("sha256").update(stderr).digest("hex"), hash);
  });

  test("a signal that ends the command is reported as one", async () => {
    const { code, stderr } = await ssh.run(["-v", `${sandbox}@gateway`, "kill -TERM $$"], "");
    assert.equal(code, 255);
    assert.match(stderr, /exit-signal/);
  });

  test("a terminal has the client's size and follows it", async () => {
    const { stdout } = await ssh.run(["-tt", `${sandbox}@gateway`, "stty size; tty"], "");
    assert.match(stdout, /^\d+ \d+\r\n\/dev\/pts\/\d+\r\n$/);
  });

  test("a shell without a terminal reads a script", async () => {
    assert.equal((await ssh.run(["-T", `${sandbox}@gateway`], "echo $((6 * 7))\nexit 3\n")).code, 3);
  });

  test("variables that the client sends reach the command", async () => {
    const { stdout } = await ssh.run(["-o", "SetEnv=LC_NOTE=kept", `${sandbox}@gateway`, "echo $LC_NOTE"], "");
    assert.equal(stdout, "kept\n");
  });

  test("a process in the background outlives its connection", async () => {
    await run("nohup sh -c 'sleep 1; echo done > outlived' > /dev/null 2>&1 &");
    await eventually("the process goes on", async () => (await run("cat outlived")).stdout === "done\n");
  });

  test("a client that leaves hangs up its command", async () => {
    const client = ssh.start([
      `${sandbox}@gateway`,
      "trap 'echo hung up > hung-up; exit' HUP; echo ready; while :; do sleep 0.1; done",
    ]);
    await within("the command runs", once(client.stdout, "data"));
    client.kill("SIGKILL");
    await eventually("the command has received SIGHUP", async () => (await run("cat hung-up")).stdout === "hung up\n");
  });

  test("scp and sftp copy files and directories, with modes and times", async () => {
    const from = join(directory, "from");
    await mkdir(join(from, "inner"), { recursive: true });
    const content = randomBytes(2_000_000);
    await writeFile(join(from, "inner", "data"), content, { mode: 0o640 });
    await writeFile(join(from, "naïve name"), "text");
    await ssh.ok("scp", ["-rp", from, `${sandbox}@gateway:copied`]);
    assert.equal((await run("stat -c %a copied/inner/data")).stdout, "640\n");
    const to = join(directory, "to");
    await ssh.ok("scp", ["-rp", `${sandbox}@gateway:copied`, to]);
    assert.deepEqual(await readFile(join(to, "inner", "data")), content);
    assert.equal(
      Math.floor((await stat(join(to, "inner", "data"))).mtimeMs / 1000),
      Math.floor((await stat(join(from, "inner", "data"))).mtimeMs / 1000),
    );
    assert.deepEqual((await readdir(to)).toSorted(), ["inner", "naïve name"]);
    const batch =
      "mkdir made\nput from/inner/data made/put\nrename made/put made/renamed\nln -s renamed made/link\nls -l made\nchmod 600 made/renamed\nrm made/link\ndf .\npwd\n";
    const { stdout } = await ssh.ok("sftp", ["-b", "-", `${sandbox}@gateway`], batch);
    assert.match(stdout, /-rw-r-----.* 2000000 .*renamed/);
    assert.equal((await run("stat -c '%a %s' made/renamed; ls made")).stdout, "600 2000000\nrenamed\n");
  });

  test("an interrupted transfer continues where it ended", async () => {
    await run("head -c 500000 copied/inner/data > partial");
    await ssh.ok("sftp", ["-b", "-", `${sandbox}@gateway`], "reput from/inner/data partial\n");
    assert.equal((await run("cmp partial copied/inner/data && echo same")).stdout, "same\n");
  });

  test("ssh -L reaches a port of the sandbox, and no other host", async () => {
    await using web = await listening();
    const local = join(directory, "forward.sock");
    const refused = join(directory, "refused.sock");
    const client = ssh.start([
      "-N",
      "-L",
      `${local}:localhost:${web.port}`,
      "-L",
      `${refused}:192.0.2.1:80`,
      `${sandbox}@gateway`,
    ]);
    try {
      const answer = await eventually("the port is reached", async () => await getOver(local));
      assert.match(answer, /200 OK[^]*hello/);
      assert.equal(await getOver(refused), "");
    } finally {
      client.kill("SIGTERM");
    }
  });

  test("agents, X11 and ports of the server are not forwarded", async () => {
    const { stdout } = await ssh.run(["-A", `${sandbox}@gateway`, "echo agent=$SSH_AUTH_SOCK"], "");
    assert.equal(stdout, "agent=\n");
    const reverse = ["-o", "ExitOnForwardFailure=yes", "-R", "0:localhost:1", `${sandbox}@gateway`, "true"];
    assert.notEqual((await ssh.run(reverse, "")).code, 0);
  });

  test("keys of every kind that the server takes are accepted", async () => {
    for (const [type, bits] of [
      ["ecdsa", "256"],
      ["ecdsa", "521"],
      ["rsa", "3072"],
    ] as const) {
      const key = await ssh.newKey(`${type}${bits}`, ["-t", type, "-b", bits]);
      assert.equal((await ssh.run([`${sandbox}@gateway`, "echo in"], "", key)).code, 255, "before it is added");
      await ssh.addKey(key);
      assert.equal((await ssh.run([`${sandbox}@gateway`, "echo in"], "", key)).stdout, "in\n", type);
    }
  });

  test("a key that is removed opens nothing, and its connections end", async () => {
    const key = await ssh.newKey("removed", ["-t", "ed25519"]);
    const id = await ssh.addKey(key);
    const client = ssh.start([`${sandbox}@gateway`, "echo ready; sleep 100"], key);
    const exit = once(client, "close");
    await within("the command runs", once(client.stdout, "data"));
    await call("DELETE", `/api/ssh-keys/${id}`);
    assert.equal((await ssh.run([`${sandbox}@gateway`, "true"], "", key)).code, 255);
    await within("the connection ends", exit);
  });

  test("another user, a password and a sandbox of nobody are refused alike", async () => {
    for (const user of ["root", "sb-0000000000000000", `${sandbox}x`]) {
      const { code, stderr } = await ssh.run([`${user}@gateway`, "true"], "");
      assert.equal(code, 255);
      assert.match(stderr, /Permission denied \(publickey\)/);
    }
  });

  test("a connection is in the audit log, without its commands", async () => {
    await run("echo secret-text");
    const { entries } = await eventually("the entry is there", async () => {
      const page = (await call("GET", "/api/audit")) as { entries: { action: string; path: string }[] };
      return page.entries.some(({ action }) => action === "openSsh") && page;
    });
    assert.ok(entries.some(({ path }) => path === `/${sandbox}`));
    assert.ok(!JSON.stringify(entries).includes("secret-text"));
  });

  test("a client that reads nothing makes the server hold little", async () => {
    await using client = await hostile();
    // The window is beyond everything that is sent.
    const channel = await client.session(0xffff_ffff);
    const before = await memoryBytes(server.process.pid, "now");
    await forgetPeak(server.process.pid);
    client._protocol.exec(channel, "echo begun > begun; head -c 400000000 /dev/zero; echo ended > ended");
    await eventually("the command runs", async () => (await run("cat begun")).stdout === "begun\n");
    client._sock.pause();
    // Other connections are served meanwhile, and what the command writes waits in the guest.
    for (let round = 0; round < 10; round += 1) assert.equal((await run("ls ended")).stdout, "");
    const peak = await memoryBytes(server.process.pid, "peak");
    assert.ok(peak - before < 150e6, `${Math.round((peak - before) / 1e6)} MB`);
  });

  test("a client that sends beyond its window is disconnected", async () => {
    await using client = await hostile();
    const channel = await client.session(2 ** 21);
    client._protocol.exec(channel, "sleep 100");
    const end = new Promise<void>((resolve) => client.once("close", () => resolve()));
    // The window is no multiple of the pieces, so it never becomes 0, at which the library drops what comes.
    for (let sent = 0; sent < 400; sent += 1) client._protocol.channelData(channel, Buffer.alloc(32_767));
    await within("the connection ends", end);
    assert.equal((await run("echo served")).stdout, "served\n");
  });

  type Hostile = ssh2.Client & ClientInternals & AsyncDisposable & { session(window: number): Promise<number> };

  /** A connection whose client sends what it likes. */
  async function hostile(): Promise<Hostile> {
    const { port } = (await call("GET", "/api/ssh")) as { port: number };
    const client = new ssh2.Client() as ssh2.Client & ClientInternals;
    client.on("error", () => undefined);
    client.connect({ port, username: sandbox, privateKey: await readFile(join(directory, "first"), "utf8") });
    await within("the connection", once(client, "ready"));
    return Object.assign(client, {
      /** Opens a session. Returns the server's number of it. */
      session: async (window: number): Promise<number> => {
        const opened = Promise.withResolvers<number>();
        client._protocol._handlers = { CHANNEL_OPEN_CONFIRMATION: (_, { sender }) => opened.resolve(sender) };
        client._protocol.session(1000, window, 32_768);
        return await within("the session opens", opened.promise);
      },
      [Symbol.asyncDispose]: async () => void client.destroy(),
    });
  }

  async function listening(): Promise<AsyncDisposable & { readonly port: number }> {
    const web = createServer((_request, response) => response.end("hello")).listen(0, "127.0.0.1");
    await once(web, "listening");
    const { port } = web.address() as { port: number };
    return { port, [Symbol.asyncDispose]: async () => void web.close() };
  }

  /** The bytes that a server behind a forwarded socket sends. Empty: the connection ended before. */
  async function getOver(path: string): Promise<string> {
    const socket = connect(path);
    socket.write("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let text = "";
    socket.on("data", (bytes: Buffer) => (text += bytes.toString()));
    await within(
      "the connection ends",
      new Promise((resolve) => socket.once("close", resolve).on("error", () => undefined)),
    );
    return text;
  }
});
