import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { createHash, type Hash, randomBytes } from "node:crypto";
import { type EventEmitter, once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type ExecSession, Sandbox } from "@opencomputer/sdk";
import { decodeServerFrame, encodeClientFrame } from "@opensandbox/wire/public/guests/exec-sessions.ts";
import { eventually as waitFor, within } from "@opensandbox/wire/testing/eventually.ts";
import { WebSocket } from "ws";
import { type SpawnedServer, spawnServerOn } from "./spawn-server.ts";

/** The sizes of the tests, which differ between fake and real machines. */
export interface SessionTestOptions {
  /** Environment of the server's process. */
  readonly env: Readonly<Record<string, string>>;
  /** Bytes that pass through one session's output. */
  readonly streamedBytes: number;
  /** The most that the server's memory may grow meanwhile; with the fake machine, the agent's too. */
  readonly growthBytes: number;
  /** Output of the command whose result is polled afterwards. */
  readonly resultBytes: number;
  /** Size of the file that is uploaded and downloaded. OPENSANDBOX_TEST_FILE_MB raises it. */
  readonly fileBytes: number;
  /** Number of sandboxes with a terminal at the same time. */
  readonly sandboxes: number;
  /** Starts the server, with its data below the directory. Default: one process with both parts. */
  readonly spawn?: (directory: string, env: Readonly<Record<string, string>>) => Promise<SpawnedServer>;
}

/** Exec sessions, terminals and files through the published client, against a server in a process of its own. */
export function sessionTests(name: string, options: SessionTestOptions): void {
  const { env, streamedBytes, resultBytes, growthBytes } = options;
  const fileBytes = Number(process.env["OPENSANDBOX_TEST_FILE_MB"] ?? 0) * 1_000_000 || options.fileBytes;

  suite(name, () => {
    let directory: string;
    let spawned: SpawnedServer | undefined;
    let server: ChildProcess;
    let api: { readonly apiUrl: string; readonly apiKey: string };
    let sandbox: Sandbox;

    before(async () => {
      directory = await mkdtemp(join(tmpdir(), "osb-sessions-"));
      await chmod(directory, 0o711);
      spawned = await (options.spawn?.(directory, env) ?? spawnServerOn(directory, { env }));
      server = spawned.process;
      api = { apiUrl: spawned.url, apiKey: spawned.apiKey };
      sandbox = await Sandbox.create({ template: "minimal", envs: { FROM_CREATE: "yes" }, ...api });
    });
    after(async () => {
      await spawned?.[Symbol.asyncDispose]();
      await rm(directory, { recursive: true, force: true });
    });

    const path = (rest: string): string => `${api.apiUrl}/api/sandboxes/${sandbox.sandboxId}${rest}`;

    async function call(method: string, rest: string, body?: unknown): Promise<Response> {
      return await fetch(path(rest), {
        method,
        headers: { "X-API-Key": api.apiKey },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    }

    async function run(command: string): Promise<string> {
      const { exitCode, stdout, stderr } = await sandbox.commands.run(command, { timeout: 120 });
      assert.equal(exitCode, 0, `${command}: ${stdout}${stderr}`);
      return stdout.trimEnd();
    }

    /** The output of a session, as text. */
    function ear() {
      const heard = { stdout: "", stderr: "", replayed: undefined as string | undefined };
      const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };
      return {
        heard,
        onStdout: (bytes: Uint8Array) => (heard.stdout += decoders.stdout.decode(bytes, { stream: true })),
        onStderr: (bytes: Uint8Array) => (heard.stderr += decoders.stderr.decode(bytes, { stream: true })),
        onScrollbackEnd: () => {
          assert.equal(heard.replayed, undefined, "the scrollback's end is sent once");
          heard.replayed = heard.stdout + heard.stderr;
        },
      };
    }

    const eventually: typeof waitFor = (what, probe) => waitFor(what, probe, { withinMs: 120_000, everyMs: 10 });

    /** The next event of a socket. */
    async function next<Arguments extends unknown[]>(socket: EventEmitter, event: string): Promise<Arguments> {
      return await within(`the socket's event ${event}`, once(socket, event) as Promise<Arguments>, 120_000);
    }

    test("commands.run, ten at once: each has its own output and exit code", async () => {
      const numbers = Array.from({ length: 10 }, (_, index) => index);
      const results = await Promise.all(
        numbers.map((number) => sandbox.commands.run(`echo ${number}; echo e${number} >&2; exit ${number}`)),
      );
      assert.deepEqual(
        results,
        numbers.map((number) => ({ exitCode: number, stdout: `${number}\n`, stderr: `e${number}\n` })),
      );
    });

    test("commands.run that outlasts the hold: output before and after, environment, directory", async () => {
      const { stdout, exitCode } = await sandbox.exec.run("echo $FROM_CREATE $MORE; pwd; sleep 1; echo end; exit 4", {
        env: { MORE: "too" },
        cwd: "/tmp",
      });
      assert.deepEqual([stdout, exitCode], ["yes too\n/tmp\nend\n", 4]);
    });

    test("commands.run with 20 MB of output in two pipes is exact", async () => {
      const { stdout, stderr } = await sandbox.exec.run(
        "yes 0123456789 | head -c 10000000; yes abcdefghi | head -c 10000000 >&2",
        { timeout: 300 },
      );
      assert.ok(stdout === "0123456789\n".repeat(909_091).slice(0, 10_000_000), "standard output");
      assert.ok(stderr === "abcdefghi\n".repeat(1_000_000), "standard error");
    });

    test(`the result of a command that has written ${resultBytes} bytes is whole and takes little memory`, async () => {
      const memory = [server.pid, ...agentsBelow(directory)].map(watchMemory);
      const cmd = `yes 0123456789 | tr -d '\\n' | head -c ${resultBytes}; exit 3`;
      const started = await call("POST", "/exec/run-async", { cmd, timeout: 600 });
      const { execId } = (await started.json()) as { execId: string };
      let heard = createHash("sha256");
      await eventually("it has ended", async () => {
        const result = await call("GET", `/exec/${execId}/result`);
        assert.equal(result.status, 200);
        heard = createHash("sha256");
        let bytes = 0;
        for await (const chunk of result.body ?? []) {
          heard.update(chunk);
          bytes += chunk.length;
        }
        return bytes > resultBytes;
      });
      const expected = createHash("sha256").update('{"running":false,"exitCode":3,"stdout":"');
      const block = Buffer.from("0123456789".repeat(10_000));
      for (let at = 0; at < resultBytes; at += block.length) expected.update(block.subarray(0, resultBytes - at));
      expected.update('","stderr":""}');
      assert.equal(heard.digest("hex"), expected.digest("hex"));
      for (const process of memory) {
        const grown = process.stop();
        assert.ok(grown < growthBytes, `a process grew by ${grown / 2 ** 20} MiB`);
      }
    });

    test("exec.start: input, both pipes, the exit code, the list", async () => {
      const listener = ear();
      const session = await sandbox.exec.start("cat; echo bye >&2; exit 9", listener);
      session.sendStdin("hello ü\n");
      await eventually("it is echoed", () => listener.heard.stdout.includes("ü\n"));
      const listed = (await sandbox.exec.list()).find(({ sessionID }) => sessionID === session.sessionId);
      assert.deepEqual([listed?.running, listed?.attachedClients], [true, 1]);
      await session.kill(15);
      assert.equal(await session.done, -1);
      const ended = (await sandbox.exec.list()).find(({ sessionID }) => sessionID === session.sessionId);
      assert.deepEqual([ended?.running, ended?.exitCode], [false, -1]);
      await assert.rejects(sandbox.exec.kill("00000000"), /404/);
    });

    test("exec.start: the end of the input, which the published client cannot send", async () => {
      const { sessionID } = (await (await call("POST", "/exec", { cmd: "wc -c" })).json()) as { sessionID: string };
      const socket = new WebSocket(path(`/exec/${sessionID}?api_key=${api.apiKey}`).replace("http", "ws"));
      await next(socket, "open");
      let stdout = "";
      socket.on("message", (data: Buffer) => {
        const frame = decodeServerFrame(data);
        if (frame?.pipe === "stdout") stdout += Buffer.from(frame.bytes).toString();
      });
      for (let index = 0; index < 10; index += 1) {
        socket.send(encodeClientFrame({ kind: "stdin", bytes: Buffer.alloc(100_000) }));
      }
      socket.send(encodeClientFrame({ kind: "stdin end" }));
      await next(socket, "close");
      assert.equal(stdout.trim(), "1000000");
    });

    test("exec.attach: after a detach, by two clients at once, and after the end", async () => {
      const first = ear();
      const session = await sandbox.exec.background(
        "echo one; read a; echo got $a; read b; echo got $b; exit 3",
        first,
      );
      await eventually("it has begun", () => first.heard.stdout.includes("one"));
      session.close();
      await session.done;
      const [second, third] = [ear(), ear()];
      const back = await sandbox.exec.attach(session.sessionId, second);
      const other = await sandbox.exec.attach(session.sessionId, third);
      await eventually("it is replayed", () => second.heard.replayed === "one\n" && third.heard.replayed === "one\n");
      back.sendStdin("x\n");
      await eventually("both hear it", () => [second, third].every(({ heard }) => heard.stdout.includes("got x")));
      other.sendStdin("y\n");
      assert.deepEqual(await Promise.all([back.done, other.done]), [3, 3]);
      const late = ear();
      assert.equal(await (await sandbox.exec.attach(session.sessionId, late)).done, 3);
      for (const { heard } of [second, third, late]) assert.equal(heard.stdout, "one\ngot x\ngot y\n");
    });

    test("maxRunAfterDisconnect ends a command without listeners", async () => {
      const session = await sandbox.exec.start("echo begun; exec sleep 600", { maxRunAfterDisconnect: 1 });
      await sleep(1500);
      const running = async () =>
        (await sandbox.exec.list()).find(({ sessionID }) => sessionID === session.sessionId)?.running;
      assert.equal(await running(), true);
      session.close();
      await eventually("it is killed", async () => !(await running()));
    });

    test("exec.shell keeps directory and variables, and can be found again", async () => {
      const shell = await sandbox.exec.shell({ cwd: "/tmp", env: { A: "1" } });
      assert.equal((await shell.run("pwd; echo $A; B=2; cd /")).stdout, "/tmp\n1\n");
      const { exitCode, stdout, stderr } = await shell.run("pwd; echo $B >&2; (exit 7)");
      assert.deepEqual([exitCode, stdout, stderr], [7, "/\n", "2\n"]);
      const again = await sandbox.exec.reattachShell(shell.sessionId);
      assert.equal((await again.run("echo $B")).stdout, "2\n");
      await again.close();
    });

    test("pty: a shell with the sandbox's environment, resized, reattached, closed", async () => {
      let text = "";
      const decoder = new TextDecoder();
      const pty = await sandbox.pty.create({
        cols: 90,
        rows: 20,
        onOutput: (bytes) => (text += decoder.decode(bytes, { stream: true })),
      });
      await eventually("there is a prompt", () => /[$#] /.test(text));
      pty.send("stty size; echo $TERM $FROM_CREATE ünï\r");
      await eventually("it answers", () => text.includes("20 90\r\nxterm-256color yes ünï\r\n"));
      assert.equal((await call("POST", `/pty/${pty.sessionId}/resize`, { cols: 50, rows: 10 })).status, 200);
      pty.send(new TextEncoder().encode("stty size\r"));
      await eventually("it has the new size", () => text.includes("10 50\r\n"));
      pty.close();
      const socket = new WebSocket(path(`/pty/${pty.sessionId}?api_key=${api.apiKey}`).replace("http", "ws"));
      let replayed = "";
      socket.on("message", (data: Buffer) => (replayed += data.toString()));
      await eventually("it is replayed", () => replayed.includes("10 50\r\n"));
      socket.send("exit\r");
      const [code] = await next<[number]>(socket, "close");
      assert.equal(code, 1000);
    });

    test("signed URLs: upload and download without a key", async () => {
      const content = randomBytes(300_000);
      const upload = await sandbox.uploadUrl("/tmp/signed file");
      assert.equal((await fetch(upload, { method: "PUT", body: content })).status, 204);
      const download = await sandbox.downloadUrl("/tmp/signed file", { expiresIn: 60 });
      assert.ok(content.equals(Buffer.from(await (await fetch(download)).arrayBuffer())));
      const part = await fetch(download, { headers: { range: "bytes=1000-1999" } });
      assert.deepEqual([part.status, part.headers.get("content-range")], [206, "bytes 1000-1999/300000"]);
      assert.ok(content.subarray(1000, 2000).equals(Buffer.from(await part.arrayBuffer())));
      const forged = new URL(download);
      forged.searchParams.set("path", "/etc/passwd");
      assert.equal((await fetch(forged)).status, 403);
    });

    test("files are described, moved, changed and watched", async () => {
      await run("rm -rf ~/watched; mkdir ~/watched; echo x > ~/watched/file; ln -s file ~/watched/link");
      const home = await run("cd ~/watched && pwd -P");
      const watching = new AbortController();
      const events = await fetch(path("/files/watch?path=watched&recursive=true"), {
        headers: { "X-API-Key": api.apiKey },
        signal: watching.signal,
      });
      let received = "";
      const listening = (async () => {
        for await (const chunk of events.body ?? []) received += Buffer.from(chunk).toString();
      })().catch(() => undefined);
      await eventually("the watch is ready", () => received.includes("event: ready"));

      const stat = (await (await call("GET", "/files/stat?path=watched/link")).json()) as Record<string, unknown>;
      assert.deepEqual([stat["kind"], stat["linkTarget"]], ["symlink", "file"]);
      assert.equal(
        (await call("POST", "/files/rename", { from: "watched/file", to: "watched/new/moved" })).status,
        204,
      );
      assert.equal((await call("PATCH", "/files?path=watched/new/moved", { mode: "640" })).status, 200);
      assert.equal(await run(`stat -c %a ${home}/new/moved`), "640");
      assert.equal((await call("POST", "/files/rename", { from: "watched/none", to: "watched/x" })).status, 404);
      await eventually("the event arrives", () => /"created","path":"[^"]*\/watched\/new\/moved"/.test(received));
      await eventually("the event arrives", () => /"removed","path":"[^"]*\/watched\/file"/.test(received));
      await run("echo y >> ~/watched/new/moved");
      await eventually("the event arrives", () => /"changed","path":"[^"]*\/watched\/new\/moved"/.test(received));
      watching.abort();
      await listening;
    });

    test("an interrupted upload leaves no torn file, and simultaneous writers do not mix", async () => {
      await sandbox.files.write("/tmp/target", "before");
      const { port, hostname } = new URL(api.apiUrl);
      const socket = connect(Number(port), hostname);
      socket.write(
        `PUT /api/sandboxes/${sandbox.sandboxId}/files?path=/tmp/target HTTP/1.1\r\nHost: x\r\n` +
          `X-API-Key: ${api.apiKey}\r\nContent-Length: 10000000\r\n\r\n${"x".repeat(1_000_000)}`,
      );
      await sleep(300);
      socket.destroy();
      const leftovers = async () => await run("ls -A /tmp | grep -c '^[.]opensandbox-' || true");
      await eventually("what was written is removed", async () => (await leftovers()) === "0");
      assert.equal(await sandbox.files.read("/tmp/target"), "before");
      await Promise.all(
        ["a", "b", "c", "d"].map((letter) => sandbox.files.write("/tmp/target", letter.repeat(1_000_000))),
      );
      assert.match(await sandbox.files.read("/tmp/target"), /^(a{1000000}|b{1000000}|c{1000000}|d{1000000})$/);
    });

    test(`a file of ${fileBytes} bytes is uploaded and downloaded in little memory`, async () => {
      const memory = [server.pid, ...agentsBelow(directory)].map(watchMemory);
      const sent = createHash("sha256");
      const upload = await fetch(path("/files?path=/tmp/large"), {
        method: "PUT",
        headers: { "X-API-Key": api.apiKey },
        body: ReadableStream.from(madeBytes(fileBytes, sent)),
        duplex: "half",
      });
      assert.equal(upload.status, 204);
      const download = await fetch(path("/files?path=/tmp/large"), { headers: { "X-API-Key": api.apiKey } });
      assert.equal(Number(download.headers.get("content-length")), fileBytes);
      const received = createHash("sha256");
      for await (const chunk of download.body ?? []) received.update(chunk);
      assert.equal(received.digest("hex"), sent.digest("hex"));
      // An offset beyond 32 bits; the unwritten part takes no space.
      await run("truncate -s 5G /tmp/large && echo end >> /tmp/large");
      const size = 5 * 2 ** 30 + 4;
      const last = await fetch(path("/files?path=/tmp/large"), {
        headers: { "X-API-Key": api.apiKey, Range: "bytes=-6" },
      });
      assert.equal(last.headers.get("content-range"), `bytes ${size - 6}-${size - 1}/${size}`);
      assert.equal(await last.text(), "\0\0end\n");
      for (const process of memory) {
        const grown = process.stop();
        assert.ok(grown < growthBytes, `a process grew by ${grown / 2 ** 20} MiB`);
      }
      await sandbox.files.remove("/tmp/large");
    });

    test("garbage, text and a broken connection disturb no session", async () => {
      const listener = ear();
      const session = await sandbox.exec.start("cat", listener);
      const socket = new WebSocket(path(`/exec/${session.sessionId}?api_key=${api.apiKey}`).replace("http", "ws"));
      await next(socket, "open");
      for (const message of [Buffer.alloc(1000, 0xee), "text", new Uint8Array(), Buffer.of(3, 0, 0, 0, 0)]) {
        socket.send(message);
      }
      socket.terminate();
      const raw = connect(Number(new URL(api.apiUrl).port), new URL(api.apiUrl).hostname);
      raw.on("error", () => undefined);
      raw.write(
        `GET /api/sandboxes/${sandbox.sandboxId}/exec/${session.sessionId}?api_key=${api.apiKey} HTTP/1.1\r\nHost: x\r\n` +
          "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
      );
      await next(raw, "data");
      raw.write(randomBytes(10_000));
      await next(raw, "close");
      await eventually("it is still there", async () =>
        (await sandbox.exec.list()).some(({ sessionID, running }) => sessionID === session.sessionId && running),
      );
      await session.kill();
      assert.equal(await session.done, -1);
    });

    test("frames of 1 GB, a wrong key and a client that never reads disturb no other session", async () => {
      const listener = ear();
      const session = await sandbox.exec.start("read go; yes 0123456789 | head -c 20000000; read on; exit 6", listener);
      const url = path(`/exec/${session.sessionId}?api_key=${api.apiKey}`).replace("http", "ws");
      const deaf = new WebSocket(url);
      await next(deaf, "open");
      deaf.pause();
      session.sendStdin("go\n");
      await eventually("it speaks", () => listener.heard.stdout !== "");

      for (const key of ["wrong", ""]) {
        const stranger = new WebSocket(path(`/exec/${session.sessionId}?api_key=${key}`).replace("http", "ws"));
        stranger.on("error", () => undefined);
        const [, { statusCode }] = await next<[unknown, { statusCode: number }]>(stranger, "unexpected-response");
        stranger.terminate();
        assert.ok([401, 403].includes(statusCode), `${statusCode}`);
      }
      const memory = watchMemory(server.pid);
      const client = new WebSocket(url);
      await next(client, "open");
      // The test writes the frame itself: the header alone gets the frame refused, and its payload is not kept.
      const wire = (client as unknown as { readonly _socket: Socket })._socket;
      wire.write(Buffer.from([0x82, 0xff, ...[0, 0, 0, 0, 0x40, 0, 0, 0], ...[1, 2, 3, 4]]));
      for (let sent = 0; sent < 64 && !wire.destroyed; sent += 1) wire.write(Buffer.alloc(2 ** 20));
      const [code] = await next<[number]>(client, "close");
      // The code is 1006 when a frame in flight arrives after the close.
      assert.ok([1009, 1006].includes(code), `${code}`);
      const grown = memory.stop();
      assert.ok(grown < growthBytes, `the server grew by ${grown / 2 ** 20} MiB`);

      await eventually("all of it is heard", () => listener.heard.stdout.length === 20_000_000);
      session.sendStdin("on\n");
      assert.equal(await session.done, 6);
      assert.ok(listener.heard.stdout === "0123456789\n".repeat(1_818_182).slice(0, 20_000_000));
      deaf.terminate();
    });

    test(`a terminal in each of ${options.sandboxes} sandboxes at once`, async () => {
      const others = await Promise.all(
        Array.from({ length: options.sandboxes - 1 }, () => Sandbox.create({ template: "minimal", ...api })),
      );
      const terminals = await Promise.all(
        [sandbox, ...others].map(async (each) => {
          const heard = { text: "" };
          const pty = await each.pty.create({ onOutput: (bytes) => (heard.text += Buffer.from(bytes).toString()) });
          return { each, heard, pty };
        }),
      );
      for (const { heard } of terminals) await eventually("there is a prompt", () => /[$#] /.test(heard.text));
      for (let round = 0; round < 3; round += 1) {
        for (const { each, pty } of terminals) pty.send(`echo ${each.sandboxId} round $((${round} + 10))\r`);
        for (const { each, heard } of terminals) {
          const answer = `${each.sandboxId} round ${round + 10}`;
          await eventually(answer, () => heard.text.includes(`${answer}\r\n`));
        }
      }
      for (const { each, heard, pty } of terminals) {
        const strangers = terminals.filter((other) => other.each !== each);
        assert.ok(
          strangers.every((other) => !heard.text.includes(other.each.sandboxId)),
          "each hears itself alone",
        );
        pty.close();
      }
      await Promise.all(others.map((other) => other.kill()));
    });

    test("a hundred sessions at once keep their output apart", async () => {
      const sessions: [ExecSession, ReturnType<typeof ear>][] = [];
      for (let index = 0; index < 100; index += 1) {
        const listener = ear();
        sessions.push([await sandbox.exec.start(`read x; echo ${index} $x; exit ${index}`, listener), listener]);
      }
      const running = (await sandbox.exec.list()).filter((session) => session.running);
      assert.ok(running.length >= 100, `${running.length} run`);
      for (const [session] of sessions) session.sendStdin("go\n");
      const codes = await Promise.all(sessions.map(([session]) => session.done));
      assert.deepEqual(
        codes,
        sessions.map((_, index) => index),
      );
      assert.deepEqual(
        sessions.map(([, { heard }]) => heard.stdout),
        sessions.map((_, index) => `${index} go\n`),
      );
    });

    test(`${streamedBytes / 1e6} MB arrive identical at clients that pause, stall, or reconnect every second`, async () => {
      const script =
        `read go; head -c ${streamedBytes} /dev/urandom | tee /tmp/sent; ` +
        "sha256sum < /tmp/sent | cut -c1-64 >&2; rm /tmp/sent";
      const { sessionID } = (await (await call("POST", "/exec", { cmd: script })).json()) as { sessionID: string };
      const memory = watchMemory(server.pid);

      using clients = new DisposableStack();
      const listen: typeof listenTo = (...to) => clients.adopt(listenTo(...to), (socket) => socket.terminate());

      const whole = Buffer.alloc(streamedBytes);
      let bytes = 0;
      let expected = "";
      // A client that reads everything, with occasional pauses.
      const steady = listen(sessionID, ({ pipe, bytes: part }) => {
        if (pipe === "stderr") expected += Buffer.from(part).toString();
        if (pipe !== "stdout") return;
        // `set` throws on bytes beyond the expected total.
        whole.set(part, bytes);
        bytes += part.length;
        if (Math.random() < 0.01) {
          steady.pause();
          setTimeout(() => steady.resume(), 300 * Math.random());
        }
      });
      // A client that reads nothing until the command has ended.
      const late = createHash("sha256");
      let lateBytes = 0;
      const still = listen(sessionID, ({ pipe, bytes: part }) => {
        if (pipe !== "stdout") return;
        late.update(part);
        lateBytes += part.length;
      });
      // Both clients attach before the first output: a later one would receive only the scrollback of that time.
      await Promise.all([next(steady, "open"), next(still, "open")]);
      still.pause();
      const ended = once(steady, "close") as Promise<[number]>;
      steady.send(encodeClientFrame({ kind: "stdin", bytes: Buffer.from("go\n") }));

      // A client that detaches and reattaches.
      const visits: Visit[] = [];
      const over = new AbortController();
      void ended.then(() => over.abort());
      while (!over.signal.aborted) {
        const visit: Visit = { first: Buffer.alloc(0), hash: createHash("sha256"), bytes: 0, scrollbackEnds: 0 };
        const hears = Promise.withResolvers<void>();
        const visitor = listen(sessionID, ({ pipe, bytes: part }) => {
          if (pipe === "scrollback end") visit.scrollbackEnds += 1;
          if (pipe !== "stdout") return;
          hears.resolve();
          if (visit.first.length < 32) visit.first = Buffer.concat([visit.first, part]);
          visit.hash.update(part);
          visit.bytes += part.length;
        });
        // A visitor that was still connecting when the stream ended is cut off.
        visitor.on("error", (error) => {
          if (!over.signal.aborted) hears.reject(error);
        });
        const visited = Promise.race([hears.promise.then(() => sleep(1000)), ended]);
        await within("a visitor receives output, or the stream ends", visited, 120_000);
        visitor.terminate();
        visits.push(visit);
      }

      const [code] = await within("the stream ends", ended, 600_000);
      assert.equal(code, 1000);
      assert.equal(bytes, streamedBytes);
      assert.equal(sha256(whole), expected.trim());
      assert.ok(visits.length > 1 && visits.some((visit) => visit.bytes >= 32), `${visits.length} visits`);
      for (const { first, hash, bytes: heard, scrollbackEnds } of visits) {
        if (heard < 32) continue;
        // From its first byte on, every client has received the stream without a gap.
        const at = whole.indexOf(first.subarray(0, 32));
        assert.notEqual(at, -1, "a visitor's first bytes are of the stream");
        assert.equal(hash.digest("hex"), sha256(whole.subarray(at, at + heard)), `${heard} bytes from ${at} on`);
        // The scrollback is a mebibyte, so a client that received more has passed its end.
        assert.equal(scrollbackEnds, heard > 2 ** 20 ? 1 : Math.min(scrollbackEnds, 1));
      }
      const grown = memory.stop();
      assert.ok(grown < growthBytes, `the server grew by ${grown / 2 ** 20} MiB`);

      // The client that stalled has lost nothing.
      still.resume();
      const [stillCode] = await next<[number]>(still, "close");
      assert.deepEqual([stillCode, lateBytes], [1000, streamedBytes]);
      assert.equal(late.digest("hex"), expected.trim());
    });

    /** Attaches to a session. Frames that arrive with the handshake's answer are not missed. */
    function listenTo(session: string, onFrame: (frame: { pipe: string; bytes: Uint8Array }) => void): WebSocket {
      const socket = new WebSocket(path(`/exec/${session}?api_key=${api.apiKey}`).replace("http", "ws"));
      socket.on("message", (data: Buffer) => {
        const frame = decodeServerFrame(data) ?? assert.fail(`unknown frame ${data.toString("hex")}`);
        onFrame({ bytes: new Uint8Array(), ...frame });
      });
      return socket;
    }
  });
}

/** The messages that a client received between attach and detach. */
interface Visit {
  first: Buffer;
  readonly hash: Hash;
  bytes: number;
  scrollbackEnds: number;
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Bytes that differ by position, generated on demand. */
function* madeBytes(length: number, hash: Hash): Generator<Uint8Array> {
  const block = randomBytes(2 ** 20);
  for (let at = 0; at < length; at += block.length) {
    block.writeDoubleLE(at);
    const part = Uint8Array.from(block.subarray(0, length - at));
    hash.update(part);
    yield part;
  }
}

/** The agents of fake machines, which are processes of this host. */
function agentsBelow(directory: string): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => {
      try {
        const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
        return words.includes("--fake") && words.some((word) => word.startsWith(directory));
      } catch {
        // The process has ended, or was never one.
        return false;
      }
    });
}

/** Samples the memory of a process until it is stopped. Returns the peak growth in bytes. */
function watchMemory(pid: number | undefined): { stop(): number } {
  const before = residentBytes(pid);
  let largest = before;
  const watching = setInterval(() => (largest = Math.max(largest, residentBytes(pid))), 50);
  return {
    stop: () => {
      clearInterval(watching);
      return largest - before;
    },
  };
}

function residentBytes(pid: number | undefined): number {
  const kib = /^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return Number(kib) * 1024;
}
