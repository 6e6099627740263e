import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  BuildError,
  CommandExitError,
  FileNotFoundError,
  Sandbox,
  type SandboxOpts,
  Template,
  TimeoutError,
  waitForPort,
} from "e2b";
import { Sandbox as CodeInterpreter } from "@e2b/code-interpreter";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";

/** The first start of a machine makes its template, which takes minutes on a busy emulated host. */
const requestTimeoutMs = 600_000;

/** A server, with a key of its own. */
export interface E2bWorld extends AsyncDisposable {
  readonly url: string;
  readonly apiKey: string;
}

export interface E2bExpectations {
  /** The home directory of the default user, as the client sees it. */
  readonly home: string;
  /** Whether machines are real: processes are not this host's, and a pause keeps memory. */
  readonly isReal: boolean;
}

/** What the published client of E2B relies on, unmodified, in plain mode: one address for everything. */
export function e2bClientTests(name: string, start: () => Promise<E2bWorld>, { home, isReal }: E2bExpectations): void {
  suite(name, () => {
    let world: E2bWorld;
    let options: SandboxOpts;
    let sandbox: Sandbox;

    before(async () => {
      world = await start();
      options = { apiKey: world.apiKey, apiUrl: world.url, sandboxUrl: world.url, requestTimeoutMs };
      sandbox = await Sandbox.create({ ...options, envs: { FROM_CREATE: "yes" }, metadata: { suite: "e2b" } });
    });
    after(async () => {
      await world?.[Symbol.asyncDispose]();
    });

    test("a sandbox is created, found, connected to and described", async () => {
      assert.equal(await sandbox.isRunning(), true);
      const info = await sandbox.getInfo();
      assert.deepEqual([info.sandboxId, info.metadata], [sandbox.sandboxId, { suite: "e2b" }]);
      const again = await Sandbox.connect(sandbox.sandboxId, options);
      assert.equal((await again.commands.run("echo again")).stdout, "again\n");
      const pages = Sandbox.list({ ...options, query: { metadata: { suite: "e2b" } } });
      const found = await pages.nextItems();
      assert.deepEqual([found.map(({ sandboxId }) => sandboxId), pages.hasNext], [[sandbox.sandboxId], false]);
    });

    test("a command has its output, its exit code, its directory and its variables", async () => {
      const { stdout, stderr, exitCode } = await sandbox.commands.run('echo "$FROM_CREATE $OWN $PWD"; echo err >&2', {
        envs: { OWN: "own" },
        cwd: "/",
      });
      assert.deepEqual([stdout, stderr, exitCode], ["yes own /\n", "err\n", 0]);
      await assert.rejects(sandbox.commands.run("exit 3"), (error) => {
        assert.ok(error instanceof CommandExitError);
        assert.equal(error.exitCode, 3);
        return true;
      });
      await assert.rejects(sandbox.commands.run("true", { cwd: "/no/such/directory" }), /cwd '.*' does not exist/);
    });

    test("output arrives while a command runs", async () => {
      const pieces: string[] = [];
      await sandbox.commands.run("echo one; sleep 0.5; echo two", { onStdout: (data) => void pieces.push(data) });
      assert.deepEqual(pieces.join(""), "one\ntwo\n");
      assert.ok(pieces.length > 1, `${pieces.length} pieces`);
    });

    test("a command in the background is listed, fed, connected to and killed", async () => {
      const command = await sandbox.commands.run("cat", { background: true, stdin: true });
      const listed = await sandbox.commands.list();
      assert.ok(listed.some(({ pid }) => pid === command.pid));
      const again = await sandbox.commands.connect(command.pid);
      await sandbox.commands.sendStdin(command.pid, "line\n");
      await eventually("both listeners have the line", () => command.stdout === "line\n" && again.stdout === "line\n");
      await again.disconnect();
      assert.equal(await command.kill(), true);
      assert.equal(await command.kill(), false);
      await assert.rejects(command.wait(), CommandExitError);
    });

    test("the end of standard input ends a command that waits for it", async () => {
      const command = await sandbox.commands.run("wc -c", { background: true, stdin: true });
      await sandbox.commands.sendStdin(command.pid, "12345");
      await sandbox.commands.closeStdin(command.pid);
      assert.equal((await within("the command ends", command.wait(), 30_000)).stdout.trim(), "5");
    });

    test("a command that takes too long is killed, and the client is told", async () => {
      await assert.rejects(sandbox.commands.run("sleep 1000", { timeoutMs: 1000 }), TimeoutError);
    });

    test("a terminal echoes, has a size and ends", async () => {
      let output = "";
      const onData = (data: Uint8Array): void => {
        output += Buffer.from(data).toString();
      };
      const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData });
      await sandbox.pty.resize(terminal.pid, { cols: 100, rows: 30 });
      await sandbox.pty.sendInput(terminal.pid, Buffer.from("stty size; exit\n"));
      await within("the terminal ends", terminal.wait(), 60_000);
      assert.match(output, /30 100/);
    });

    test("files are written, read, listed, moved and removed", async () => {
      const { path } = await sandbox.files.write("notes/a b.txt", "content");
      assert.equal(path, `${home}/notes/a b.txt`);
      assert.equal(await sandbox.files.read("notes/a b.txt"), "content");
      const bytes = Uint8Array.from({ length: 100_000 }, (_, index) => index % 251);
      await sandbox.files.write("notes/bytes", new Blob([bytes]).stream());
      assert.deepEqual(await sandbox.files.read("notes/bytes", { format: "bytes" }), bytes);
      await sandbox.files.write([
        { path: "notes/x", data: "x" },
        { path: "notes/y", data: "y" },
      ]);
      assert.deepEqual(
        (await sandbox.files.list("notes")).map((entry) => entry.name),
        ["a b.txt", "bytes", "x", "y"],
      );
      assert.equal((await sandbox.files.getInfo("notes/x")).size, 1);
      assert.equal((await sandbox.files.rename("notes/x", "notes/z")).path, `${home}/notes/z`);
      assert.deepEqual([await sandbox.files.exists("notes/x"), await sandbox.files.exists("notes/z")], [false, true]);
      assert.deepEqual(
        [await sandbox.files.makeDir("notes/sub"), await sandbox.files.makeDir("notes/sub")],
        [true, false],
      );
      await sandbox.files.remove("notes");
      assert.equal(await sandbox.files.exists("notes"), false);
      await assert.rejects(sandbox.files.read("notes/none"), FileNotFoundError);
    });

    test("files are transferred with gzip in both directions", async () => {
      const text = "compressible ".repeat(10_000);
      await sandbox.files.write("zipped.txt", text, { gzip: true });
      assert.equal(await sandbox.files.read("zipped.txt", { gzip: true }), text);
    });

    test("changes below a watched directory are reported, even in directories that appear later", async () => {
      await sandbox.files.makeDir("watched");
      const seen: string[] = [];
      const watch = await sandbox.files.watchDir("watched", ({ type, name }) => void seen.push(`${type} ${name}`), {
        recursive: true,
      });
      await sandbox.files.makeDir("watched/later");
      await sandbox.files.write("watched/later/file", "content");
      await eventually("the file is reported", () => seen.includes("write later/file"));
      await sandbox.files.remove("watched/later/file");
      await eventually("its removal is reported", () => seen.includes("remove later/file"));
      await watch.stop();
    });

    test("signed URLs upload and download without a header", async () => {
      const up = await sandbox.uploadUrl("signed.txt", { useSignatureExpiration: 60 });
      const form = new FormData();
      form.append("file", "by a URL");
      assert.equal((await fetch(up, { method: "POST", body: form })).status, 200);
      const down = await sandbox.downloadUrl("signed.txt", { useSignatureExpiration: 60 });
      assert.equal(await (await fetch(down)).text(), "by a URL");
    });

    test("a sandbox ends at its set time", async () => {
      const short = await Sandbox.create(options);
      await short.setTimeout(2000);
      await sleep(3500);
      assert.equal(await short.isRunning(), false);
      assert.equal(await short.kill(), false);
    });

    test("a client whose sandbox is killed learns of it at once", async () => {
      const other = await Sandbox.create(options);
      const running = other.commands.run("sleep 1000");
      const failed = assert.rejects(running, TimeoutError);
      await eventually("the command runs", async () => (await other.commands.list()).length > 0);
      assert.equal(await other.kill(), true);
      await within("the client learns of it", failed, 30_000);
    });

    test("a sandbox reports its metrics", async () => {
      const [metric] = await sandbox.getMetrics();
      assert.ok(metric !== undefined && metric.memTotal > 0 && metric.diskTotal > 0 && metric.cpuCount > 0);
    });

    if (!isReal) return;

    test("a template is built, its log arrives, and its step that fails is named", async () => {
      const lines: string[] = [];
      const template = Template().fromBaseImage().runCmd("echo built here");
      const onBuildLogs = ({ message }: { readonly message: string }): void => void lines.push(message);
      const { templateId } = await Template.build(template, "plain:v1", { ...options, onBuildLogs });
      assert.ok(lines.includes("built here"), lines.join("\n"));
      assert.equal(await Template.exists("plain", options), true);
      assert.deepEqual(
        (await Template.getTags(templateId, options)).map(({ tag }) => tag),
        ["v1"],
      );
      await Template.assignTags("plain:v1", "stable", options);
      const started = await Sandbox.create("plain:stable", options);
      assert.equal((await started.commands.run("echo runs")).stdout, "runs\n");
      await started.kill();
      const broken = Template().fromTemplate("plain:stable").runCmd("echo the reason; exit 3");
      await assert.rejects(Template.build(broken, "broken", options), (error) => {
        assert.ok(error instanceof BuildError);
        assert.match(error.message, /exit code 3\nthe reason/);
        return true;
      });
    });

    test("sandboxes of a template have its files, its variables, its user and its running server", async () => {
      const directory = await mkdtemp(join(tmpdir(), "osb-template-"));
      try {
        await mkdir(join(directory, "site"));
        await writeFile(join(directory, "site", "index.html"), "<p>from the template</p>");
        const template = Template({ fileContextPath: directory })
          .fromBaseImage()
          .copy("site", "/srv/site")
          .setEnvs({ GREETING: "hello there" })
          .runCmd('echo "$GREETING from $(whoami) in $PWD" > note')
          .runCmd("whoami > /root-note", { user: "root" })
          .setStartCmd("cd /srv/site && exec python3 -m http.server 8123 --bind 127.0.0.1", waitForPort(8123));
        await Template.build(template, "serving", { ...options, cpuCount: 1, memoryMB: 1024 });
      } finally {
        await rm(directory, { recursive: true });
      }
      const started = await Sandbox.create("serving", options);
      const { stdout } = await started.commands.run(
        "cat note /root-note; echo $GREETING; stat -c %U /srv/site/index.html",
      );
      assert.equal(stdout, `hello there from user in ${home}\nroot\nhello there\nuser\n`);
      const headers = { "e2b-sandbox-id": started.sandboxId, "e2b-sandbox-port": "8123" };
      // The server was captured while it ran: nothing starts it here.
      const answer = await fetch(`${world.url}/`, { headers });
      assert.deepEqual([answer.status, await answer.text()], [200, "<p>from the template</p>"]);
      await started.kill();
    });

    test("the code interpreter runs code in contexts, with results, errors and an interrupt", async () => {
      const interpreter = await CodeInterpreter.create(options);
      try {
        const lines: string[] = [];
        const first = await interpreter.runCode("import os\nx = 41\nprint('é', os.getcwd())\nx + 1", {
          onStdout: ({ line }) => void lines.push(line),
          timeoutMs: 0,
        });
        assert.deepEqual([first.text, first.logs.stdout.join("")], ["42", `é ${home}\n`]);
        assert.equal(lines.join(""), `é ${home}\n`);
        const { error } = await interpreter.runCode("x / 0");
        assert.deepEqual([error?.name, error?.value], ["ZeroDivisionError", "division by zero"]);
        const rich = "class Rich:\n  def _repr_html_(self): return '<b>rich</b>'\nRich()";
        assert.equal((await interpreter.runCode(rich)).results[0]?.html, "<b>rich</b>");
        const context = await interpreter.createCodeContext({ cwd: "/tmp" });
        assert.equal((await interpreter.runCode("import os; os.getcwd()", { context })).text, "/tmp");
        assert.equal((await interpreter.runCode("x", { context })).error?.name, "NameError");
        const script = "const a = [1, 2]; console.log(a.length); a.map((n) => n * 2)";
        const inNode = await interpreter.runCode(script, { language: "javascript", timeoutMs: 0 });
        assert.deepEqual([inNode.logs.stdout, inNode.text], [["2\n"], "[ 2, 4 ]"]);
        const bash = await interpreter.runCode("echo $((6 * 7)) $KEY", { language: "bash", envs: { KEY: "value" } });
        assert.equal(bash.logs.stdout.join(""), "42 value\n");
        await assert.rejects(interpreter.runCode("import time\nwhile True: time.sleep(0.1)", { timeoutMs: 3000 }));
        assert.equal((await interpreter.runCode("x")).text, "41");
        const copy = await CodeInterpreter.create((await interpreter.createSnapshot()).snapshotId, options);
        assert.equal((await copy.runCode("x += 1; x")).text, "42");
        assert.equal((await interpreter.runCode("x")).text, "41");
        await copy.kill();
      } finally {
        await interpreter.kill();
      }
    });

    test("the default user is `user`, owns its files and may become root", async () => {
      const { stdout } = await sandbox.commands.run("whoami; pwd; sudo -n id -u; touch mine; stat -c '%U:%G' mine");
      assert.equal(stdout, `user\n${home}\n0\nuser:user\n`);
      assert.equal((await sandbox.commands.run("whoami", { user: "root" })).stdout, "root\n");
      await sandbox.files.write("/root/by-root", "x", { user: "root" });
      assert.equal((await sandbox.files.getInfo("/root/by-root", { user: "root" })).owner, "root");
    });

    test("a process survives a pause, and can be connected to afterwards", async () => {
      const paused = await Sandbox.create(options);
      const command = await paused.commands.run("cat", { background: true, stdin: true });
      const { startedAt } = await paused.getInfo();
      assert.equal(await paused.pause(), true);
      assert.equal(await paused.pause(), false);
      assert.equal(await paused.isRunning(), false);
      const info = await Sandbox.getInfo(paused.sandboxId, options);
      assert.deepEqual([info.state, info.startedAt], ["paused", startedAt]);
      await paused.connect();
      const again = await paused.commands.connect(command.pid);
      await paused.commands.sendStdin(command.pid, "after\n");
      await eventually("the process answers", () => again.stdout === "after\n");
      await paused.kill();
    });

    test("a snapshot starts another sandbox with its files", async () => {
      await sandbox.files.write("kept", "in the snapshot");
      const { snapshotId } = await sandbox.createSnapshot();
      const copy = await Sandbox.create(snapshotId, options);
      assert.equal(await copy.files.read("kept"), "in the snapshot");
      await copy.kill();
      assert.equal(await Sandbox.deleteSnapshot(snapshotId, options), true);
      assert.equal(await Sandbox.deleteSnapshot(snapshotId, options), false);
    });

    test("a server in a sandbox is reached through its port", async () => {
      await sandbox.commands.run("python3 -m http.server 3000 --bind 127.0.0.1", { background: true, cwd: "/etc" });
      const headers = { "e2b-sandbox-id": sandbox.sandboxId, "e2b-sandbox-port": "3000" };
      const response = await eventually("the server answers", async () => {
        const answer = await fetch(`${world.url}/hostname`, { headers });
        return answer.status === 200 ? answer : undefined;
      });
      assert.ok((await response.text()).trim().length > 0);
    });
  });
}
