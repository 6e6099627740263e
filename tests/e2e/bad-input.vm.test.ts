import assert from "node:assert/strict";
import { once } from "node:events";
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test, type TestContext } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { type Server, startServer } from "@opensandbox/server";
import { within } from "@opensandbox/wire/testing/eventually.ts";
import { hostState } from "./host-state.ts";
import { startWorld, type World, worldConfig } from "./world.ts";

const never = new AbortController().signal;

// Each request is refused with a status and a helpful message, and changes nothing.
suite("requests that a server must refuse", () => {
  let world: World;
  let id: string;
  let stateBefore: object;

  before(async () => {
    world = await startWorld();
    const created = await call("POST", "/api/sandboxes", { templateID: "minimal" });
    assert.equal(created.status, 201, JSON.stringify(created.body));
    id = (created.body as { sandboxID: string }).sandboxID;
    assert.equal((await call("PUT", `/api/sandboxes/${id}/files?path=/workspace/note`, "kept")).status, 204);
    stateBefore = hostState(world.config.dataDirectory);
  });
  after(async () => {
    await world?.[Symbol.asyncDispose]();
  });

  async function call(
    method: string,
    path: string,
    body?: unknown,
    key = world.apiKey,
  ): Promise<{ readonly status: number; readonly body: unknown }> {
    const response = await fetch(world.url + path, {
      method,
      headers: key === "" ? {} : { "X-API-Key": key },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, body: text === "" ? undefined : JSON.parse(text) };
  }

  const cases: readonly [what: string, method: string, path: string, body: unknown, status: number, words: RegExp][] = [
    [
      "an unknown template",
      "POST",
      "",
      { templateID: "debain" },
      404,
      /debain.*builder, base, default, docker, minimal/,
    ],
    ["memory that is not a multiple of 128", "POST", "", { memoryMB: 1000 }, 400, /memoryMB.*multiple of 128/],
    ["too little memory", "POST", "", { memoryMB: 128 }, 400, /memoryMB.*256/],
    ["too much memory", "POST", "", { memoryMB: 65_664 }, 400, /memoryMB.*65536/],
    ["a disk below the smallest", "POST", "", { diskMB: 10 }, 400, /diskMB must be at least 20480/],
    ["no processors", "POST", "", { cpuCount: 0 }, 400, /cpuCount/],
    ["a negative time-out of a new sandbox", "POST", "", { timeout: -1 }, 400, /timeout must be non-negative/],
    ["a negative time-out", "POST", "/ID/timeout", { timeout: -1 }, 400, /timeout must be non-negative \(0 disables/],
    ["a body that is not JSON", "POST", "", "{templateID", 400, /not JSON/],
    ["a body that is not an object", "POST", "", "[1]", 400, /./],
    ["no command", "POST", "/ID/exec/run", {}, 400, /cmd/],
    ["reading without a path", "GET", "/ID/files", undefined, 400, /path query parameter is required/],
    ["writing without a path", "PUT", "/ID/files", "x", 400, /path query parameter is required/],
    ["reading a directory", "GET", "/ID/files?path=/workspace", undefined, 400, /\/workspace is a directory/],
    ["reading nothing", "GET", "/ID/files?path=/nothing", undefined, 404, /\/nothing/],
    ["writing where a directory is", "PUT", "/ID/files?path=/workspace", "x", 400, /\/workspace is a directory/],
    ["writing below a file", "PUT", "/ID/files?path=/etc/hostname/x", "x", 400, /\/etc\/hostname/],
    ["listing a file", "GET", "/ID/files/list?path=/workspace/note", undefined, 400, /note/],
    ["a directory to run in that is not there", "POST", "/ID/exec/run", { cmd: "ls", cwd: "/no" }, 400, /\/no/],
    [
      "a program that is not there",
      "POST",
      "/ID/exec/run",
      { cmd: "nope", args: ["-x"] },
      404,
      /command not found: nope/,
    ],
    ["an unknown sandbox", "GET", "/sb-00000000", undefined, 404, /sandbox not found/],
    ["a command in an unknown sandbox", "POST", "/sb-00000000/exec/run", { cmd: "true" }, 404, /sandbox not found/],
    ["removing an unknown sandbox", "DELETE", "/sb-00000000", undefined, 404, /sandbox not found/],
    ["text that is not an id", "GET", "/..%2fetc", undefined, 404, /sandbox not found/],
  ];
  for (const [what, method, path, body, status, words] of cases) {
    test(what, async () => {
      const reply = await call(method, `/api/sandboxes${path.replace("ID", id)}`, body);
      assert.equal(reply.status, status, JSON.stringify(reply.body));
      assert.match((reply.body as { error: string }).error, words);
    });
  }

  test("a wrong key and a missing key are refused", async () => {
    const wrong = await call("POST", "/api/sandboxes", {}, "osb_wrong");
    assert.deepEqual([wrong.status, (wrong.body as { error: string }).error], [403, "invalid API key"]);
    const none = await call("POST", "/api/sandboxes", {}, "");
    assert.deepEqual([none.status, (none.body as { error: string }).error], [401, "missing API key"]);
  });

  test("a body of 1 GB where JSON is expected is refused before it is received", async () => {
    const { hostname, port } = new URL(world.url);
    const socket = connect(Number(port), hostname);
    socket.on("error", () => undefined);
    await within("the server accepts the connection", once(socket, "connect"));
    const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    let answer = "";
    socket.on("data", (data: Buffer) => (answer += data.toString()));
    socket.write(
      `POST /api/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: ${world.apiKey}\r\nContent-Length: ${2 ** 30}\r\n\r\n`,
    );
    let sent = 0;
    while (!socket.destroyed && sent < 2 ** 30) {
      const more = Buffer.alloc(65_536, 0x20);
      sent += more.length;
      if (!socket.write(more)) {
        const drained = new Promise<void>((resolve) => socket.once("drain", () => resolve()));
        await within("the server reads on or closes", Promise.race([drained, closed]), 120_000);
      }
    }
    await within("the server closes the connection", closed, 120_000);
    assert.match(answer, /^HTTP\/1\.1 400 /);
    assert.match(answer, /larger than \d+ MiB: upload files to/);
    assert.ok(sent < 64 * 2 ** 20, `${sent} bytes were taken`);
  });

  test("when the disk is full, an upload is refused and the file that it would replace stays", async () => {
    const prepare = "sudo mount -t tmpfs -o size=1m,mode=1777 tmpfs /mnt && echo before > /mnt/file";
    const prepared = await call("POST", `/api/sandboxes/${id}/exec/run`, { cmd: prepare });
    assert.deepEqual(prepared.body, { exitCode: 0, stdout: "", stderr: "" });
    const refused = await call("PUT", `/api/sandboxes/${id}/files?path=/mnt/file`, "x".repeat(4_000_000));
    assert.equal(refused.status, 429);
    assert.match((refused.body as { error: string }).error, /disk of the sandbox is full/);
    const left = await call("POST", `/api/sandboxes/${id}/exec/run`, { cmd: "cat /mnt/file; ls -A /mnt" });
    assert.equal((left.body as { stdout: string }).stdout, "before\nfile\n");
  });

  test("after every refusal the one sandbox and its file are there, and nothing else", async () => {
    const list = (await call("GET", "/api/sandboxes")).body as { sandboxID: string }[];
    assert.deepEqual(
      list.map(({ sandboxID }) => sandboxID),
      [id],
    );
    const { body } = await call("POST", `/api/sandboxes/${id}/exec/run`, {
      cmd: "cat /workspace/note; ls -A /workspace",
    });
    assert.match((body as { stdout: string }).stdout, /^kept/);
    assert.deepEqual(hostState(world.config.dataDirectory), stateBefore);
  });
});

suite("a host on which a server cannot start", () => {
  async function dataDirectory(t: TestContext): Promise<string> {
    const directory = await mkdtemp(join(tmpdir(), "osb-host-"));
    t.after(() => rm(directory, { recursive: true, force: true }));
    await chmod(directory, 0o711);
    return directory;
  }

  /** Starts a server that must not start. Returns its error, after a check for leftovers. */
  async function refusal(
    t: TestContext,
    env: Readonly<Record<string, string>>,
    options: { readonly embedded?: boolean; readonly image?: string } = {},
  ): Promise<Error> {
    const directory = env["OPENSANDBOX_DATA_DIR"] ?? (await dataDirectory(t));
    const before = hostState(directory);
    let server: Server | undefined;
    try {
      server = await startServer(
        worldConfig(directory, env),
        { embedded: true, onProgress: () => undefined, ...options },
        never,
      );
    } catch (error) {
      assert.ok(isSandboxError(error), String(error));
      assert.deepEqual(hostState(directory), before);
      return error;
    }
    await server[Symbol.asyncDispose]();
    return assert.fail("it started");
  }

  test("a data directory that is not writable is reported", async (t) => {
    // Not even root may write here.
    const { message } = await refusal(t, { OPENSANDBOX_DATA_DIR: "/sys/opensandbox" });
    assert.match(
      message,
      /cannot write to the data directory \/sys\/opensandbox .*set OPENSANDBOX_DATA_DIR to another/,
    );
  });

  test("a missing QEMU is reported", async (t) => {
    const { message } = await refusal(t, { OPENSANDBOX_QEMU_BIN: "/nonexistent/qemu" });
    assert.match(message, /\/nonexistent\/qemu does not run\. QEMU 9\.0 or newer is needed; \.\/opensandbox setup/);
  });

  test("an old QEMU is reported", async (t) => {
    const directory = await dataDirectory(t);
    const old = join(directory, "old-qemu");
    await writeFile(old, "#!/bin/sh\necho 'QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)'\n", {
      mode: 0o755,
    });
    const { message } = await refusal(t, { OPENSANDBOX_QEMU_BIN: old });
    assert.match(message, /is QEMU 8\.2\. QEMU 9\.0 or newer is needed; \.\/opensandbox setup/);
  });

  test("a port in use is reported", async (t) => {
    const other = createServer();
    other.listen(0, "127.0.0.1");
    await within("the other server listens", once(other, "listening"));
    t.after(() => other.close());
    const { port } = other.address() as AddressInfo;
    const { message } = await refusal(t, { OPENSANDBOX_PORT: `${port}` }, { embedded: false });
    assert.match(message, new RegExp(`port ${port} on 127\\.0\\.0\\.1 is in use: .*OPENSANDBOX_PORT`));
  });

  test(
    "there is no room to build an image",
    { skip: process.getuid?.() === 0 ? false : "only root can mount a small file system" },
    async (t) => {
      const { runCommand } = await import("../../packages/worker/src/host/run-command.ts");
      const images = join(await dataDirectory(t), "images");
      await mkdir(images);
      await runCommand("mount a small file system", ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", images]);
      try {
        const { message } = await refusal(t, { OPENSANDBOX_IMAGES_DIR: images }, { image: "minimal" });
        assert.match(message, /building kit needs 500 MiB in .*images, where 3\d MiB are free: make room there/);
        // `.users` registers the data directory, so that no other server collects what it uses.
        const left = (await readdir(images)).filter((name) => !/^(locks$|\.users$|agent-bundle-)/.test(name));
        assert.deepEqual(left, []);
      } finally {
        await runCommand("unmount it", ["umount", images]);
      }
    },
  );
});
