import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type ErrorCode, isSandboxError } from "@opensandbox/wire/errors.ts";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import type { AttachedSession, ExecSession, NewExecSession, RunRequest } from "@opensandbox/wire/worker/sessions.ts";
import { methods } from "@opensandbox/wire/guest/methods.ts";
import { fakeHypervisor } from "#hypervisor/fake/fake-hypervisor.ts";
import type { Vm } from "#hypervisor/hypervisor.ts";
import { GuestClient } from "./guest-client.ts";
import { noHooks } from "./guest-hooks.ts";
import { guestSessions } from "./guest-sessions.ts";

const never = new AbortController().signal;

async function bootFake(directory: string): Promise<Vm> {
  const agent = join(import.meta.dirname, "../../../guest-agent/src/main.ts");
  const hypervisor = fakeHypervisor([process.execPath, "--disable-warning=ExperimentalWarning", agent]);
  const nothing = { kernel: "", initramfs: "", bootArguments: [], disks: [], network: { kind: "none" } } as const;
  return await hypervisor.boot(
    { directory, vcpus: 1, memoryMib: 256, hotplugMib: 0, memoryBase: "", ...nothing },
    never,
  );
}

// The guest agent's sessions over its real channel; the machine is a process of this host.
suite("exec sessions of a guest agent", () => {
  let directory: string;
  let machine: Vm;
  let guest: GuestClient;
  const sessions = guestSessions(() => guest);
  let ids = 0;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-sessions-"));
    machine = await bootFake(directory);
    guest = await GuestClient.connect(machine.agentTransport);
  });
  after(async () => {
    guest?.[Symbol.dispose]();
    await machine?.[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  function sessionOf(script: string, more: Partial<NewExecSession> = {}): NewExecSession {
    return {
      id: `s${(ids += 1)}`,
      command: { argv: ["/bin/sh", "-c", script], stdin: true },
      purpose: "exec",
      keepOutput: false,
      whenDetached: "keep",
      ...more,
    };
  }

  const create = async (script: string, more: Partial<NewExecSession> = {}): Promise<ExecSession> =>
    await sessions.create(sessionOf(script, more), never);

  const attach = async (id: string, signal = never, fromStart = false): Promise<AttachedSession> =>
    await sessions.attach(id, { fromStart }, signal);

  /** Reads to the end: each pipe, both pipes joined, and the output before the scrollback's end. */
  async function readAll({ output, result }: AttachedSession, isNew = false) {
    const texts = { stdout: "", stderr: "", replayed: "", all: "" };
    let ends = 0;
    for await (const part of output) {
      if (part === "scrollback end") {
        ends += 1;
        texts.replayed = texts.all;
      } else {
        const text = Buffer.from(part.bytes).toString("latin1");
        texts[part.pipe] += text;
        texts.all += text;
      }
    }
    assert.ok(ends === 1 || (isNew && ends === 0), "the scrollback's end is reported once");
    return { ...texts, end: (await result).end };
  }

  test("hooks run by name and once for each run; one that fails or hangs is reported, and the others run", async () => {
    const home = (await readAll(await attach((await create("pwd")).id, never, true))).stdout.trim();
    const place = async (name: string, script: string, mode = 0o755): Promise<void> => {
      const path = join(home, "hooks", name);
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, `#!/bin/sh\n${script}\n`, { mode });
    };
    const run = async (event: string, timeoutMs: number): Promise<void> => {
      const hooks = { event, timeoutMs, runId: event };
      // As after a connection that broke before the answer.
      const asked = [1, 2].map(() => guest.call(methods.configure, { hooks }, AbortSignal.timeout(60_000)));
      await Promise.all(asked);
    };
    await place("after-wake.d/20-second", `echo "second $OPENSANDBOX_EVENT" >>${home}/hooked; echo output`);
    await place("after-wake.d/10-first", `echo first >>${home}/hooked; exit 3`);
    await place("after-wake.d/notes.txt", `echo notes >>${home}/hooked`, 0o644);
    await run("after-wake", 60_000);
    assert.equal(await readFile(join(home, "hook-logs/after-wake/20-second.log"), "latin1"), "output\n");
    await place("before-hibernate.d/30-hangs", "exec sleep 1000");
    await place("before-hibernate.d/40-late", `echo late >>${home}/hooked`);
    await run("before-hibernate", 500);
    await run("after-fork", 500);
    assert.equal(await readFile(join(home, "hooked"), "latin1"), "first\nsecond after-wake\n");
    for (const event of ["after-fork", noHooks.event])
      await place(`${event}.d/10-any`, `echo template >>${home}/hooked`);
    await guest.call(methods.configure, { hooks: noHooks }, AbortSignal.timeout(60_000));
    assert.equal(await readFile(join(home, "hooked"), "latin1"), "first\nsecond after-wake\n", "none in a template");
    const reports = await readFile(join(directory, "console.log"), "latin1");
    assert.match(reports, /10-first failed: it exited with 3; its output is in/);
    assert.match(reports, /30-hangs failed: it was killed because it did not end in time/);
    assert.match(reports, /40-late failed: left out: the hooks before it took the 500 ms of all hooks/);
  });

  test("a session runs without listeners, is listed, and can be read after its end", async () => {
    const { id, end } = await create("echo out; echo err >&2; exit 3");
    assert.equal(end, undefined);
    const ended = await sessions.wait(id, 30_000, never);
    assert.deepEqual(ended.end, { exitCode: 3, signal: 0, timedOut: false });
    assert.deepEqual([ended.stdoutBytes, ended.stderrBytes], [4, 4]);
    for (let times = 0; times < 2; times += 1) {
      const read = await readAll(await attach(id));
      assert.deepEqual([read.stdout, read.stderr, read.end.exitCode], ["out\n", "err\n", 3]);
      assert.equal(read.replayed.length, 8);
    }
    const listed = (await sessions.list(never)).find((session) => session.id === id);
    assert.deepEqual(listed?.argv, ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]);
    await assert.rejects(create("true", { id }), (error) => isSandboxError(error, "already_exists"));
  });

  for (const stdin of [true, false]) {
    test(`a command ${stdin ? "with" : "without"} input has the process id that its caller is told`, async () => {
      const session = sessionOf("", { command: { argv: ["/bin/sh", "-c", "echo $$"], stdin } });
      const attached = await sessions.run({ ...session, transient: false, announce: true }, never);
      const { stdout } = await readAll(attached, true);
      assert.equal(attached.pid, Number(stdout));
      assert.equal((await sessions.wait(session.id, 0, never)).pid, attached.pid);
    });
  }

  test("input and its end reach the command", async () => {
    const { id } = await create("cat; echo done");
    const attached = await attach(id);
    const reading = readAll(attached);
    await attached.write(Buffer.from("hello "));
    await attached.write(Buffer.from("world\n"));
    await attached.closeStdin();
    assert.equal((await reading).stdout, "hello world\ndone\n");
  });

  test("a command runs on after its listener detaches, and its output waits for the next one", async () => {
    const { id } = await create("read line; echo got $line; read line; echo got $line");
    const leave = new AbortController();
    const first = await attach(id, leave.signal);
    await first.write(Buffer.from("one\n"));
    leave.abort();
    await assert.rejects(readAll(first), (error) => isSandboxError(error, "canceled"));
    const second = await attach(id);
    await second.write(Buffer.from("two\n"));
    assert.equal((await readAll(second)).stdout, "got one\ngot two\n");
  });

  test("a signal reaches the whole process group and is reported as the end", async () => {
    const { id } = await create("sleep 100 & echo started; wait");
    const attached = await attach(id);
    const reading = readAll(attached);
    await eventually("the first output", async () => (await sessions.wait(id, 0, never)).stdoutBytes > 0);
    await sessions.signal(id, 15, never);
    assert.deepEqual((await reading).end, { exitCode: 0, signal: 15, timedOut: false });
    await sessions.signal(id, 9, never);
    await assert.rejects(sessions.signal("none", 9, never), (error) => isSandboxError(error, "not_found"));
  });

  test("a timeout kills the command and is reported", async () => {
    const { id } = await create("sleep 100", {
      command: { argv: ["/bin/sh", "-c", "sleep 100"], timeoutMs: 100, stdin: true },
    });
    const { end } = await readAll(await attach(id));
    assert.deepEqual(end, { exitCode: 0, signal: 9, timedOut: true });
  });

  test("a command is killed after its time without a listener, and not before", async () => {
    const { id } = await create("echo begun; exec sleep 100", { whenDetached: { killAfterMs: 300 } });
    const leave = new AbortController();
    const reading = readAll(await attach(id, leave.signal)).catch(() => undefined);
    assert.equal((await sessions.wait(id, 600, never)).end, undefined, "somebody listens");
    leave.abort();
    await reading;
    const { end } = await sessions.wait(id, 30_000, never);
    assert.equal(end?.signal, 9);
  });

  test("a removed session is killed and gone", async () => {
    const { id } = await create("exec sleep 100");
    const reading = readAll(await attach(id));
    await sessions.remove(id, never);
    assert.equal((await reading).end.signal, 9);
    await assert.rejects(attach(id), (error) => isSandboxError(error, "not_found"));
  });

  test("the commands of a fake machine end with it, also those that have left their session", async () => {
    const own = await mkdtemp(join(tmpdir(), "osb-sessions-end-"));
    const other = await bootFake(own);
    using line = await GuestClient.connect(other.agentTransport);
    const script = "(setsid sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000";
    const { id } = await guestSessions(() => line).create(sessionOf(script), never);
    const { output } = await guestSessions(() => line).attach(id, { fromStart: true }, never);
    let pid = 0;
    for await (const part of output) {
      if (part !== "scrollback end") pid = Number(Buffer.from(part.bytes).toString());
      if (pid !== 0) break;
    }
    // Empty for a zombie too: the kernel keeps its process id, but not its command line.
    const words = async (): Promise<string> => await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
    assert.notEqual(await words(), "");
    await other[Symbol.asyncDispose]();
    assert.equal(await words(), "");
    await rm(own, { recursive: true });
  });

  test("a command that cannot start leaves no session", async () => {
    const request = sessionOf("", { command: { argv: ["/no/such/program"] } });
    await assert.rejects(sessions.create(request, never), (error) => isSandboxError(error, "not_found"));
    await assert.rejects(attach(request.id), (error) => isSandboxError(error, "not_found"));
  });

  test("a fast and a slow listener receive the same bytes, and a late one the scrollback", async () => {
    const bytes = 8_000_000;
    const { id } = await create(`read go; head -c ${bytes} /dev/urandom | tee ${directory}/sent`);
    const hashOf = async (attached: AttachedSession, pause: () => Promise<unknown>): Promise<string> => {
      const hash = createHash("sha256");
      for await (const part of attached.output) {
        if (part !== "scrollback end") hash.update(part.bytes);
        await pause();
      }
      return hash.digest("hex");
    };
    let taken = 0;
    const slowly = async (): Promise<void> => {
      taken += 1;
      if (taken % 50 === 0) await sleep(20);
    };
    const [first, second] = [await attach(id), await attach(id)];
    await first.write(Buffer.from("go\n"));
    const [fast, slow] = await Promise.all([hashOf(first, async () => undefined), hashOf(second, slowly)]);
    const { end } = await sessions.wait(id, 30_000, never);
    assert.equal(end?.exitCode, 0);
    const sent = createHash("sha256")
      .update(await readFile(join(directory, "sent")))
      .digest("hex");
    assert.equal(fast, sent);
    assert.equal(slow, sent);
    const replayed = (await readAll(await attach(id))).all;
    assert.ok(replayed.length <= 2 ** 20 && replayed.length > 2 ** 20 - 2 ** 15, `${replayed.length}`);
  });

  test("a session that keeps its output gives a late listener all of it, or one pipe alone", async () => {
    const script = "for i in 1 2 3; do head -c 1000000 /dev/zero | tr '\\0' $i; echo $i >&2; done";
    const { id } = await create(script, { keepOutput: true });
    assert.equal((await sessions.wait(id, 30_000, never)).stdoutBytes, 3_000_000);
    const { stdout, stderr } = await readAll(await attach(id, never, true));
    assert.equal(stdout, "1".repeat(1e6) + "2".repeat(1e6) + "3".repeat(1e6));
    assert.equal(stderr, "1\n2\n3\n");
    const alone = await readAll(await sessions.attach(id, { fromStart: true, pipe: "stderr" }, never));
    assert.deepEqual([alone.stdout, alone.stderr], ["", "1\n2\n3\n"]);
  });

  test("hundreds of megabytes are kept for a result in bounded memory", async () => {
    const bytes = 300_000_000;
    const peak = async (): Promise<number> => {
      const status = await readFile(`/proc/${machine.pid}/status`, "utf8");
      return Number(/^VmHWM:\s*(\d+) kB$/m.exec(status)?.[1]) * 1024;
    };
    const before = await peak();
    const { id } = await create(`head -c ${bytes} /dev/urandom | tee ${directory}/kept`, { keepOutput: true });
    const ended = await sessions.wait(id, 300_000, never);
    assert.deepEqual([ended.end?.exitCode, ended.stdoutBytes, ended.truncated], [0, bytes, false]);
    const sent = createHash("sha256");
    for await (const part of createReadStream(join(directory, "kept"))) sent.update(part as Buffer);
    const heard = createHash("sha256");
    const { output } = await attach(id, never, true);
    for await (const part of output) if (part !== "scrollback end") heard.update(part.bytes);
    assert.equal(heard.digest("hex"), sent.digest("hex"));
    const grown = (await peak()) - before;
    assert.ok(grown < 100 * 2 ** 20, `the agent grew by ${grown / 2 ** 20} MiB`);
    await sessions.remove(id, never);
    await rm(join(directory, "kept"));
  });

  test("a sole listener that does not read blocks the command", async () => {
    const { id } = await create("read go; yes | head -c 20000000; echo end >&2");
    const attached = await attach(id);
    await attached.write(Buffer.from("go\n"));
    const parts = attached.output[Symbol.asyncIterator]();
    assert.equal((await parts.next()).value, "scrollback end");
    await sleep(500);
    const { stdoutBytes, end } = await sessions.wait(id, 0, never);
    assert.equal(end, undefined);
    assert.ok(stdoutBytes < 4_000_000, `${stdoutBytes} bytes were taken from a command that nobody reads`);
    let bytes = 0;
    for (let next = await parts.next(); !next.done; next = await parts.next()) {
      if (next.value !== "scrollback end" && next.value.pipe === "stdout") bytes += next.value.bytes.length;
    }
    assert.equal(bytes, 20_000_000);
  });

  const quick = (script: string) => ({
    ...sessionOf("", { command: { argv: ["/bin/sh", "-c", script] }, keepOutput: true }),
    transient: true,
  });
  /** A command that ends with its caller. */
  const ofCaller = (script: string): RunRequest => ({
    ...sessionOf(script, { purpose: "private" }),
    ...({ whenDetached: "kill", transient: true } as const),
  });
  const run = async (request: ReturnType<typeof quick>) => await readAll(await sessions.run(request, never), true);

  test("run starts and attaches in one call, for a short command and a long one", async () => {
    for (const script of ["echo out; echo err >&2; exit 4", "echo out; sleep 0.3; echo err >&2; exit 4"]) {
      const request = quick(script);
      const { stdout, stderr, end } = await run(request);
      assert.deepEqual([stdout, stderr, end.exitCode], ["out\n", "err\n", 4]);
      assert.equal(
        (await sessions.list(never)).some(({ id }) => id === request.id),
        false,
      );
      // The session is kept for a host that lost its connection at that moment.
      assert.equal((await sessions.wait(request.id, 0, never)).end?.exitCode, 4);
      assert.equal((await readAll(await attach(request.id, never, true))).all.length, 8);
    }
  });

  test("the outcome of a quick command is complete: full pipes, a signal, a child that runs on", async () => {
    const full = "head -c 65536 /dev/zero | tr '\\0' x; head -c 65536 /dev/zero | tr '\\0' y >&2";
    for (let times = 0; times < 5; times += 1) {
      const { stdout, stderr } = await run(quick(full));
      assert.deepEqual([stdout, stderr], ["x".repeat(65_536), "y".repeat(65_536)]);
    }
    assert.deepEqual((await run(quick("kill -9 $$"))).end, { exitCode: 0, signal: 9, timedOut: false });
    assert.equal((await run(quick("sleep 2 & echo parent"))).stdout, "parent\n");
  });

  test("a command is found along its own PATH, or relative to its directory", async () => {
    const home = await mkdtemp(join(directory, "programs-"));
    const program = async (path: string, mode: number): Promise<void> => {
      await mkdir(dirname(join(home, path)), { recursive: true });
      await writeFile(join(home, path), `#!/bin/sh\necho ${path} "$@"\n`, { mode });
    };
    for (const path of ["one/tool", "two/tool", "two/only", "with/é ß"]) await program(path, 0o755);
    await program("denied/tool", 0o644);
    await mkdir(join(home, "directory/tool"), { recursive: true });
    const said = async (argv: string[], path: string | undefined, cwd = home): Promise<string> => {
      const envs = path === undefined ? {} : { PATH: path };
      const request = { ...sessionOf("", { command: { argv, cwd, envs } }), transient: true };
      const { stdout } = await readAll(await sessions.run(request, never), true);
      return Buffer.from(stdout, "latin1").toString().trim();
    };
    const path = (...folders: string[]): string => folders.map((folder) => join(home, folder)).join(":");

    assert.equal(await said(["tool", "a b", "", "ü"], path("one", "two")), "one/tool a b  ü");
    assert.equal(await said(["tool"], path("two", "one")), "two/tool");
    assert.equal(await said(["only"], path("missing", "one", "two")), "two/only");
    assert.equal(await said(["tool"], path("denied", "directory", "two")), "two/tool");
    assert.equal(await said(["tool"], "missing:one"), "one/tool");
    assert.equal(await said(["tool"], "", join(home, "one")), "one/tool");
    assert.equal(await said(["./two/tool"], path("one")), "two/tool");
    assert.equal(await said(["../one/tool"], path("two"), join(home, "two")), "one/tool");
    assert.equal(await said([join(home, "with/é ß")], ""), "with/é ß");
    assert.match(await said(["sh", "-c", "echo $0"], undefined), /sh$/);

    const refused = async (argv: string[], path: string, code: ErrorCode, what: RegExp): Promise<void> => {
      await assert.rejects(said(argv, path), (error) => isSandboxError(error, code) && what.test(error.message));
    };
    await refused(["tool"], path("missing", "with"), "not_found", /command not found: tool/);
    await refused(["tool"], path("denied", "missing"), "permission_denied", /may not execute tool/);
    await refused(["one/tool/further"], "", "not_found", /command not found/);
    await refused(["two"], home, "permission_denied", /may not execute two/);
  });

  test("a private command is never listed, takes input, and passes on a large output with back-pressure", async () => {
    const request = ofCaller("read go; yes | head -c 20000000; echo end >&2; exit 5");
    const attached = await sessions.run(request, never);
    const listed = await sessions.list(never);
    assert.equal(
      listed.some(({ id }) => id === request.id),
      false,
    );
    await attached.write(Buffer.from("go\n"));
    await sleep(500);
    const { stdoutBytes, end } = await sessions.wait(request.id, 0, never);
    assert.equal(end, undefined);
    assert.ok(stdoutBytes < 4_000_000, `${stdoutBytes} bytes were taken from a command that nobody reads`);
    const read = await readAll(attached, true);
    assert.deepEqual([read.stdout.length, read.stderr, read.end.exitCode], [20_000_000, "end\n", 5]);
  });

  test("removing a command right after its start kills it", async () => {
    const request = quick("sleep 100");
    const running = sessions.run(request, never);
    await sessions.remove(request.id, never);
    assert.equal((await readAll(await running, true)).end.signal, 9);
  });

  suite("with a terminal", () => {
    const terminal = { columns: 100, rows: 30 };

    /** Reads without end; `shows` settles when the text has come, `end` when the session has ended. */
    function watched(attached: AttachedSession) {
      let text = "";
      let changed = Promise.withResolvers<void>();
      const end = (async () => {
        for await (const part of attached.output) {
          if (part !== "scrollback end") text += Buffer.from(part.bytes).toString("latin1");
          changed.resolve();
          changed = Promise.withResolvers();
        }
        changed.resolve();
        return (await attached.result).end;
      })();
      return {
        end,
        type: async (keys: string): Promise<void> => await attached.write(Buffer.from(keys)),
        text: () => Buffer.from(text, "latin1").toString(),
        async shows(wanted: string): Promise<void> {
          while (!this.text().includes(wanted)) await within(`${wanted} in ${this.text()}`, changed.promise);
        },
      };
    }

    test("a program finds a terminal of the requested size, which can change", async () => {
      const { id } = await create(
        "tty; stty size; echo $TERM; trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done",
        {
          terminal,
        },
      );
      const terminalOf = watched(await attach(id));
      await terminalOf.shows("ready");
      assert.match(terminalOf.text(), /^\/dev\/pts\/\d+\r\n30 100\r\nxterm-256color\r\nready/);
      await sessions.resize(id, { columns: 61, rows: 17 }, never);
      await terminalOf.end;
      assert.match(terminalOf.text(), /17 61\r\n$/);
    });

    test("keys are echoed, Ctrl-C interrupts, Ctrl-D ends", async () => {
      const command = {
        argv: ["/bin/bash", "--norc", "--noprofile"],
        envs: { PS1: "$ ", INPUTRC: "/dev/null", TERM: "dumb" },
      };
      const { id } = await create("", { terminal, command });
      const shell = watched(await attach(id));
      await shell.type("sh -c 'echo begun; exec sleep 100'\r");
      await shell.shows("\r\nbegun\r\n");
      await shell.type("\u0003");
      await shell.shows("^C\r\n$ ");
      await shell.type("echo $((6*7)) ünï\r");
      // Wait for the prompt: the shell ignores a Ctrl-D that was typed before it reads keys.
      await shell.shows("\r\n42 ünï\r\n$ ");
      await shell.type("\u0004");
      assert.equal((await shell.end).signal, 0);
    });

    test("a session without a program starts the user's shell", async () => {
      const { id, argv } = await create("", { terminal, command: { argv: [] } });
      assert.deepEqual(argv, ["/bin/bash"]);
      await sessions.signal(id, 9, never);
      assert.equal((await sessions.wait(id, 30_000, never)).end?.signal, 9);
    });

    test("bytes pass unchanged in raw mode", async () => {
      const { id } = await create("stty raw -echo; echo ready; head -c 256 | od -An -v -tu1 | tr -d '\\n'", {
        terminal,
      });
      const attached = await attach(id);
      const raw = watched(attached);
      await raw.shows("ready");
      await attached.write(Uint8Array.from({ length: 256 }, (_, index) => index));
      await raw.end;
      const numbers = raw.text().split("ready")[1]?.trim().split(/\s+/).map(Number);
      assert.deepEqual(
        numbers,
        Array.from({ length: 256 }, (_, index) => index),
      );
    });

    test("the last output of a program is not lost, also when another process holds the terminal open", async () => {
      for (let times = 0; times < 10; times += 1) {
        const script = "sleep 5 & head -c 20000 /dev/zero | tr '\\0' x; echo; echo last";
        const { all } = await readAll(await attach((await create(script, { terminal })).id));
        assert.equal(all, `${"x".repeat(20_000)}\r\nlast\r\n`);
      }
    });
  });

  test("a hundred sessions at once", async () => {
    const sessions = await Promise.all(
      Array.from({ length: 100 }, async (_, index) => await create(`read line; echo ${index} $line`)),
    );
    const texts = await Promise.all(
      sessions.map(async ({ id }) => {
        const attached = await attach(id);
        await attached.write(Buffer.from("go\n"));
        return (await readAll(attached)).stdout;
      }),
    );
    assert.deepEqual(
      texts,
      Array.from({ length: 100 }, (_, index) => `${index} go\n`),
    );
  });

  suite("when the host is replaced", () => {
    test("streams end, commands run on, and a command whose caller had left is killed", async () => {
      const marker = join(directory, "marker");
      const { id } = await create("read line; echo got $line");
      const listening = readAll(await attach(id));
      const left = await sessions.run(ofCaller(`sleep 0.7; echo left >> ${marker}`), never);
      const giveUp = new AbortController();
      const script = `sleep 0.5; echo given up >> ${marker}`;
      const given = await sessions.run(ofCaller(script), giveUp.signal);
      const outcomes = Promise.allSettled([listening, drain(left), drain(given)]);
      giveUp.abort();
      await sleep(100);

      guest[Symbol.dispose]();
      guest = await GuestClient.connect(machine.agentTransport);
      const codes = (await outcomes).map((outcome) => outcome.status === "rejected" && outcome.reason.code);
      assert.deepEqual(codes, ["unavailable", "unavailable", "canceled"]);

      const attached = await attach(id);
      await attached.write(Buffer.from("again\n"));
      assert.equal((await readAll(attached)).stdout, "got again\n");
      await sleep(1000);
      assert.equal(await readFile(marker, "utf8"), "left\n");
    });
  });
});

async function drain({ output }: { output: AsyncIterable<unknown> }): Promise<void> {
  for await (const _ of output);
}
