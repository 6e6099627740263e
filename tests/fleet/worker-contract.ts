import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { newSandboxId, newSnapshotId, randomHex, type SandboxId } from "@opensandbox/wire/ids.ts";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import type { AttachedSession, NewExecSession } from "@opensandbox/wire/worker/sessions.ts";
import type { HostStatus } from "@opensandbox/wire/worker/status.ts";
import type { MachineUse, Worker } from "@opensandbox/wire/worker/worker.ts";
import { startRequest } from "../../packages/worker/src/testing/test-host.ts";

/** A worker with the fake hypervisor to test. */
export interface WorkerStand extends AsyncDisposable {
  readonly worker: Worker;
  readonly status: () => Promise<HostStatus>;
}

const never = new AbortController().signal;

/** What a stream whose reader stalls may hold, from the command's pipe to the reader, over all hops and their buffers. */
const maxInFlightBytes = 16 * 2 ** 20;

/**
 * Everything that the control plane relies on, for a worker in the same process and for one on another host. `open` is
 * called once.
 */
export function workerContract(name: string, open: () => Promise<WorkerStand>): void {
  suite(name, () => {
    let stand: WorkerStand;
    let worker: Worker;
    let id: SandboxId;

    test("a sandbox starts, is listed, and its commands work", async () => {
      stand = await open();
      worker = stand.worker;
      assert.equal(worker.description.hypervisor, "fake");
      const request = startRequest(undefined, { generation: 3 });
      const started = await worker.startSandbox(request, () => {}, never);
      id = request.id;
      assert.equal(started.restoredFrom, "disk");
      assert.ok(started.spans.length > 0, "the start says where its time went");
      const held = { id, generation: 3, memoryMib: request.memoryMib, running: true };
      assert.deepEqual(await worker.listSandboxes(), [held]);
      assert.deepEqual(await runShell("echo out; echo err >&2; exit 3"), {
        stdout: "out\n",
        stderr: "err\n",
        exitCode: 3,
      });
    });

    test("another environment replaces the present one, for commands that start afterwards", async () => {
      await worker.setEnvironment(id, { ONE: "1", TWO: "2" });
      assert.equal((await runShell("echo $ONE $TWO")).stdout, "1 2\n");
      await worker.setEnvironment(id, { TWO: "3" });
      assert.equal((await runShell("echo ${ONE-none} $TWO")).stdout, "none 3\n");
      await assertRejects(worker.setEnvironment(newSandboxId(), {}), "not_found", { resource: "sandbox" });
    });

    test("standard input reaches the command, and its end ends the command", async () => {
      const attached = await run({ line: "cat", stdin: true });
      assert.ok((attached.pid ?? 0) > 0, "the process id is known");
      const output = textOf(attached);
      await attached.write(Buffer.from("one "));
      await attached.write(Buffer.from("two"));
      await attached.closeStdin();
      assert.equal(await output, "one two");
      assert.equal((await attached.result).end.exitCode, 0);
      // The command reads no more, so there is nothing to wait for.
      await within(
        "a write after the end settles",
        attached.write(Buffer.from("late")).catch(() => undefined),
      );
    });

    test("a write settles even if nothing reads the output", async () => {
      const attached = await run({ line: "head -c 5000000 /dev/zero; cat > input", stdin: true, whenDetached: "keep" });
      const other = new AbortController();
      const { sessionId } = attached;
      const second = await worker.guest(id).sessions.attach(sessionId, { fromStart: true }, other.signal);
      const reading = Array.fromAsync(attached.output);
      await within("the write is taken", second.write(Buffer.from("taken")));
      other.abort();
      await attached.closeStdin();
      await reading;
      assert.equal((await runShell("cat input")).stdout, "taken");
    });

    test("a session lives without listeners, is listed, resized, signalled and removed", async () => {
      const { sessions } = worker.guest(id);
      const sessionId = randomHex(4);
      const terminal = { columns: 80, rows: 24 };
      const created = await sessions.create({ ...session(sessionId, "sleep 600"), terminal }, never);
      assert.equal(created.terminal, true);
      assert.deepEqual(
        (await sessions.list(never)).filter((each) => each.id === sessionId).map(({ argv, end }) => ({ argv, end })),
        [{ argv: ["sh", "-c", "sleep 600"], end: undefined }],
      );
      await sessions.resize(sessionId, { columns: 100, rows: 30 }, never);
      await sessions.signal(sessionId, 9, never);
      const ended = await sessions.wait(sessionId, 20_000, never);
      assert.equal(ended.end?.signal, 9);
      await sessions.remove(sessionId, never);
      await assertRejects(sessions.wait(sessionId, 0, never), "not_found", { resource: "exec session" });
    });

    test("a caller that stops reading kills a command that ends with it", async () => {
      const attached = await run({ line: "yes", whenDetached: "kill" });
      for await (const part of attached.output) if (part !== "scrollback end") break;
      await assert.rejects(within("the result of the command", attached.result));
      await isGone(attached.sessionId);
    });

    test("a caller that aborts its signal kills a command that ends with it", async () => {
      const caller = new AbortController();
      const attached = await run({ line: "sleep 600", whenDetached: "kill" }, caller.signal);
      const reading = Array.fromAsync(attached.output);
      caller.abort(new SandboxError("canceled", "the client disconnected"));
      await assertRejects(reading, "canceled");
      await isGone(attached.sessionId);
    });

    test("a listener that detaches leaves the command to the others", async () => {
      const attached = await run({ line: "cat", stdin: true, whenDetached: "keep" });
      const other = new AbortController();
      await worker.guest(id).sessions.attach(attached.sessionId, { fromStart: true }, other.signal);
      other.abort();
      const output = textOf(attached);
      await attached.write(Buffer.from("still here"));
      await attached.closeStdin();
      assert.equal(await output, "still here");
    });

    test("a reader that stalls makes the command wait, with bounded bytes in flight", async () => {
      const attached = await run({ line: "yes" });
      const output = attached.output[Symbol.asyncIterator]();
      await output.next();
      const written = async (): Promise<number> => {
        const sessions = await worker.guest(id).sessions.list(never);
        return sessions.find((each) => each.id === attached.sessionId)?.stdoutBytes ?? assert.fail("no session");
      };
      // The command writes on until every buffer is full.
      let before = -1;
      const stopped = await eventually("the command stops writing", async () => {
        const [last, now] = [before, await written()];
        before = now;
        if (now === last) return now;
        await sleep(500);
        return 0;
      });
      assert.ok(stopped < maxInFlightBytes, `${stopped} bytes were written for a reader that stalls`);
      await output.next();
      await output.return?.(undefined);
      await worker.guest(id).sessions.remove(attached.sessionId, never);
    });

    test("files are written and read whole, and in parts", async () => {
      const { files } = worker.guest(id);
      const bytes = randomBytes(20 * 2 ** 20 + 1);
      const written = await files.write("big", piecesOf(bytes, 1_000_000), { mode: 0o600 }, never);
      assert.equal(written, bytes.length);
      const { entry, content } = await files.read("big", {}, never);
      assert.equal(entry.size, bytes.length);
      assert.equal(entry.mode & 0o777, 0o600);
      assert.equal(hashOf(Buffer.concat(await Array.fromAsync(content))), hashOf(bytes));
      const part = await files.read("big", { offset: 1000, length: 5000 }, never);
      assert.deepEqual(Buffer.concat(await Array.fromAsync(part.content)), bytes.subarray(1000, 6000));
    });

    test("a reader that leaves a file early ends the transfer, and the guest keeps answering", async () => {
      const { content } = await worker.guest(id).files.read("big", {}, never);
      for await (const _ of content) break;
      assert.equal((await worker.guest(id).files.stat("big", {}, never)).kind, "file");
    });

    test("an upload that its caller cannot finish fails with the caller's error and leaves no file", async () => {
      const { files } = worker.guest(id);
      const broken = new SandboxError("canceled", "the client sent half of a file");
      const content = async function* (): AsyncGenerator<Uint8Array> {
        yield Buffer.from("half");
        await sleep(20);
        throw broken;
      };
      await assert.rejects(within("the upload fails", files.write("half", content(), {}, never)), broken);
      await assertRejects(files.stat("half", {}, never), "not_found", { resource: "file" });
    });

    test("an upload that the guest refuses ends before its content does", async () => {
      const content = async function* (): AsyncGenerator<Uint8Array> {
        for (;;) {
          yield Buffer.alloc(100_000);
          await sleep(5);
        }
      };
      const upload = worker.guest(id).files.write("big/inside", content(), {}, never);
      await assert.rejects(within("the upload is refused", upload), (error) => isSandboxError(error));
    });

    test("directories are made, listed, renamed, changed and removed", async () => {
      const { files } = worker.guest(id);
      await files.makeDirectory("tree/branch", never);
      await files.write("tree/leaf", piecesOf(Buffer.from("leaf"), 4), {}, never);
      const names = (await files.list("tree", never)).map(({ name, kind }) => ({ name, kind }));
      assert.deepEqual(
        names.toSorted((a, b) => a.name.localeCompare(b.name)),
        [
          { name: "branch", kind: "directory" },
          { name: "leaf", kind: "file" },
        ],
      );
      await files.rename("tree/leaf", "tree/branch/leaf", never);
      assert.equal((await files.setAttributes("tree/branch/leaf", { mode: 0o640 }, never)).mode & 0o777, 0o640);
      await files.sync(never);
      await files.remove("tree", never);
      await assertRejects(files.stat("tree", {}, never), "not_found", { resource: "file" });
    });

    test("a watch reports every change after it has begun, and ends with its signal", async () => {
      const { files } = worker.guest(id);
      await files.makeDirectory("watched", never);
      const until = new AbortController();
      const changes = await files.watch("watched", { recursive: false }, until.signal);
      await files.write("watched/new", piecesOf(Buffer.from("x"), 1), {}, never);
      const seen: string[] = [];
      const reading = (async () => {
        for await (const batch of changes) {
          seen.push(...batch.map(({ path }) => path));
          if (seen.some((path) => path.endsWith("/new"))) until.abort(new SandboxError("canceled", "seen enough"));
        }
      })();
      await within(
        "the watch ends",
        reading.catch(() => undefined),
      );
      assert.ok(
        seen.some((path) => path.endsWith("watched/new")),
        seen.join(),
      );
    });

    test("a connection to a server in the guest carries bytes in both directions until it ends", async () => {
      await using echo = await listenOnHost((socket) => socket.pipe(socket));
      const connection = await worker.guest(id).ports.open(echo.port, never);
      const received = Array.fromAsync(connection.incoming);
      await connection.write(Buffer.from("there and "));
      await connection.write(Buffer.from("back"));
      await connection.end();
      assert.equal(Buffer.concat(await within("the server ends", received)).toString(), "there and back");
    });

    test("a server that does not read makes its caller wait, with bounded bytes in flight", async () => {
      await using server = await listenOnHost((socket) => socket.pause());
      const caller = new AbortController();
      const connection = await worker.guest(id).ports.open(server.port, caller.signal);
      const incoming = Array.fromAsync(connection.incoming).catch(() => undefined);
      let sent = 0;
      let isWaiting = false;
      while (!isWaiting && sent < 4 * maxInFlightBytes) {
        const write = connection.write(Buffer.alloc(65_536));
        write.catch(() => undefined);
        isWaiting = await Promise.race([write.then(() => false), sleep(1000, true)]);
        sent += 65_536;
      }
      assert.ok(isWaiting && sent < maxInFlightBytes, `${sent} bytes were taken for a server that reads none`);
      caller.abort(new SandboxError("canceled", "gave up"));
      await within("the connection ends", incoming);
    });

    test("a connection to a port without a server is refused with that reason", async () => {
      await assertRejects(worker.guest(id).ports.open(1, never), "not_found", { resource: "port", id: "1" });
    });

    test("errors keep code and details", async () => {
      const unknown = newSandboxId();
      await assertRejects(worker.guest(unknown).files.stat("/", {}, never), "not_found", { resource: "sandbox" });
      await assertRejects(worker.waitForEnd(unknown, never), "not_found", { resource: "sandbox", id: unknown });
      const older = startRequest(undefined, { id, generation: 1 });
      await assert.rejects(
        worker.startSandbox(older, () => {}, never),
        (error) => {
          assert.ok(isSandboxError(error, "wrong_state") || isSandboxError(error, "already_exists"), String(error));
          return error.details !== undefined;
        },
      );
      await assertRejects(worker.guest(id).sessions.attach("nothing", { fromStart: true }, never), "not_found", {
        resource: "exec session",
      });
      await assertRejects(worker.scaleSandbox(unknown, { memoryMib: 1024 }, never), "not_found", { id: unknown });
      assert.equal(await worker.findSnapshot(newSnapshotId()), undefined);
      await worker.removeSnapshot(newSnapshotId());
      assert.equal(await worker.measureDisk({ sandboxes: [unknown], snapshots: [] }), 0);
    });

    test("an aborted call ends at once, and its command runs on", async () => {
      const caller = new AbortController();
      const sleeper = await run({ line: "sleep 600" });
      const { sessions } = worker.guest(id);
      const calls = [worker.waitForEnd(id, caller.signal), sessions.wait(sleeper.sessionId, 600_000, caller.signal)];
      const ends = calls.map((call) => assertRejects(call, "canceled"));
      await sleep(50);
      caller.abort(new SandboxError("canceled", "the client disconnected"));
      await Promise.all(ends);
      await assertRejects(worker.waitForEnd(id, caller.signal), "canceled");
      assert.equal((await sessions.wait(sleeper.sessionId, 0, never)).end, undefined);
      await worker.guest(id).sessions.remove(sleeper.sessionId, never);
    });

    test("a machine that ends is reported, and a stopped sandbox is gone", async () => {
      const ended = worker.waitForEnd(id, never);
      const used = async (counted: readonly string[] = []): Promise<readonly MachineUse[]> =>
        (await worker.measureUse(counted)).filter(({ sandboxId }) => sandboxId === id);
      const running = (await used()).find((use) => !use.ended);
      assert.ok(running !== undefined && running.cpuMs >= 0 && running.egressBytes >= 0);
      await worker.stopSandbox(id);
      assert.equal((await within("the end of the machine", ended)).reason, "stopped");
      assert.deepEqual(await worker.listSandboxes(), []);
      await worker.stopSandbox(id);
      // What it has used is kept until it is stored.
      const last = await used();
      assert.deepEqual(
        last.filter(({ process }) => process === running.process).map((use) => [use.ended, use.cpuMs >= running.cpuMs]),
        [[true, true]],
      );
      assert.deepEqual(await used(last.map(({ process }) => process)), []);
    });

    test("the worker is closed", async () => {
      await stand[Symbol.asyncDispose]();
    });

    interface Run {
      readonly line: string;
      readonly stdin?: boolean;
      readonly whenDetached?: "keep" | "kill";
    }

    async function run(
      { line, stdin = false, whenDetached = "keep" }: Run,
      signal = never,
    ): Promise<AttachedSession & { readonly sessionId: string }> {
      const sessionId = randomHex(4);
      const { command, ...rest } = session(sessionId, line);
      const request = { ...rest, command: { ...command, stdin }, whenDetached, transient: false };
      const attached = await worker.guest(id).sessions.run(request, signal);
      return { ...attached, sessionId };
    }

    async function runShell(line: string): Promise<{ stdout: string; stderr: string; exitCode: number }> {
      const attached = await run({ line });
      const said = { stdout: "", stderr: "" };
      for await (const part of attached.output) {
        if (part !== "scrollback end") said[part.pipe] += Buffer.from(part.bytes).toString();
      }
      return { ...said, exitCode: (await attached.result).end.exitCode };
    }

    async function isGone(sessionId: string): Promise<void> {
      await eventually("the session is removed", async () => {
        const sessions = await worker.guest(id).sessions.list(never);
        return sessions.every((each) => each.id !== sessionId);
      });
    }
  });
}

function session(id: string, line: string): NewExecSession {
  return {
    id,
    command: { argv: ["sh", "-c", line] },
    purpose: "exec",
    keepOutput: false,
    whenDetached: "keep",
  };
}

async function textOf({ output }: AttachedSession): Promise<string> {
  let text = "";
  for await (const part of output) if (part !== "scrollback end") text += Buffer.from(part.bytes).toString();
  return text;
}

async function* piecesOf(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let start = 0; start < bytes.length; start += size) {
    await Promise.resolve();
    yield bytes.subarray(start, start + size);
  }
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function assertRejects(promise: Promise<unknown>, code: string, details: object = {}): Promise<void> {
  await assert.rejects(within(`a call that fails as ${code}`, promise), (error) => {
    assert.ok(isSandboxError(error), String(error));
    assert.equal(error.code, code, error.message);
    assert.partialDeepStrictEqual({ ...(error.details as object | undefined) }, details);
    return true;
  });
}

/** A server on this host, where the programs of fake machines run too. */
async function listenOnHost(serve: (socket: Socket) => void): Promise<AsyncDisposable & { readonly port: number }> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    serve(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  return {
    port: typeof address === "object" && address !== null ? address.port : assert.fail("no port"),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
