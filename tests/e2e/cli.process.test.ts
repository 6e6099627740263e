import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { watch } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { type EndedCli, firstOutput, startCli, type StartedCli } from "./cli.ts";
import { hostState } from "./host-state.ts";

// The command line as a process, with the fake hypervisor: everything but the machine is real.

const main = join(import.meta.dirname, "../../packages/cli/src/start.ts");
const program = [process.execPath, "--disable-warning=ExperimentalWarning", main] as const;
const seconds = 1000;

let directory: string;
let env: Record<string, string>;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "osb-cli-"));
  env = {
    OPENSANDBOX_VM_BACKEND: "fake",
    OPENSANDBOX_ALLOW_FAKE: "1",
    OPENSANDBOX_DATA_DIR: join(directory, "data"),
    XDG_CONFIG_HOME: join(directory, "config"),
    // These tests start many machines.
    NODE_COMPILE_CACHE: join(directory, "compiled"),
  };
});
after(() => rm(directory, { recursive: true, force: true }));

const start = (args: readonly string[], stdin?: string | Buffer | null): StartedCli =>
  startCli(program, args, { env, ...(stdin === undefined ? {} : { stdin }) });

const osb = async (args: readonly string[], stdin: string | Buffer | null = null): Promise<EndedCli> =>
  await start(args, stdin).ended;

/** Asserts that machines and their servers have left nothing on this host. */
function nothingLeft(): void {
  const state = hostState(env["OPENSANDBOX_DATA_DIR"] ?? "") as Record<string, string[]>;
  const left = Object.fromEntries(["workers", "machines", "journal", "processes"].map((part) => [part, state[part]]));
  // The lock of the journal belongs to no machine.
  left["journal"] = left["journal"]?.filter((name) => name !== "lock");
  assert.deepEqual(left, { workers: [], machines: [], journal: [], processes: [] });
}

/** The exit code and the error message, without progress and advice. */
function failureOf({ code, stderr }: EndedCli): { readonly code: number; readonly says: string | undefined } {
  return { code, says: stderr.split("\n").findLast((line) => line.startsWith("osb: ")) };
}

/** The time until the command runs, which announces itself on standard output. */
async function running(started: StartedCli): Promise<StartedCli> {
  await firstOutput(started);
  return started;
}

async function timed(action: () => Promise<EndedCli>): Promise<{ ended: EndedCli; milliseconds: number }> {
  const since = performance.now();
  return { ended: await action(), milliseconds: performance.now() - since };
}

suite("run, without a server", () => {
  test("run passes standard input, keeps the output streams apart, and exits with the command's code", async () => {
    assert.equal((await osb(["run", "--", "cat"], "hi\n")).stdout.toString(), "hi\n");
    const { code, stdout, stderr } = await osb(["run", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert.deepEqual([code, stdout.toString()], [3, "out\n"]);
    assert.match(stderr, /^err$/m);
    nothingLeft();
  });

  test("large input and output arrive whole", async () => {
    assert.equal((await osb(["run", "--", "head", "-c", "50000000", "/dev/urandom"])).stdout.length, 50_000_000);
  });

  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const) {
    test(`${signal} ends a sleeping command at once and leaves nothing`, async () => {
      const started = await running(start(["run", "--", "sh", "-c", "echo running; exec sleep 600"]));
      const { ended, milliseconds } = await timed(async () => {
        started.kill(signal);
        return await started.ended;
      });
      assert.equal(ended.code, code);
      assert.ok(milliseconds < 3 * seconds, `${milliseconds} ms`);
      nothingLeft();
    });
  }

  test("a command that ignores SIGINT is killed", async () => {
    const stubborn = await running(start(["run", "--", "sh", "-c", "trap '' INT; echo running; sleep 600"]));
    const { ended, milliseconds } = await timed(async () => {
      stubborn.kill("SIGINT");
      return await stubborn.ended;
    });
    assert.equal(ended.code, 130);
    assert.ok(milliseconds < 5 * seconds, `${milliseconds} ms`);
    nothingLeft();
  });

  test("an interrupt while the machine starts leaves nothing", async () => {
    const started = start(["run", "--", "true"]);
    setTimeout(() => started.kill("SIGINT"), 400);
    const { code } = await started.ended;
    assert.ok(code === 130 || code === 0, `${code}`);
    nothingLeft();
  });

  test("when its reader leaves, the command line ends quietly", async () => {
    const started = start(["run", "--", "yes"]);
    await firstOutput(started);
    started.stdout.destroy();
    assert.equal((await started.ended).code, 141);
    assert.doesNotMatch(started.stderr(), /EPIPE|cannot write/);
    nothingLeft();
  });

  test("two runs at once do not clash", async () => {
    const both = await Promise.all([osb(["run", "--", "echo", "one"]), osb(["run", "--", "echo", "two"])]);
    assert.deepEqual(
      both.map(({ stdout }) => stdout.toString()),
      ["one\n", "two\n"],
    );
    nothingLeft();
  });
});

suite("with a server", () => {
  let server: StartedCli;
  let ready: { url: string; apiKey: string };
  let id: string;

  before(async () => {
    server = start(["up", "--port", "0", "--json"]);
    ready = JSON.parse(await firstOutput(server)) as typeof ready;
    const created = await osb(["create", "--alias", "mine", "-e", "FROM_CREATE=yes"]);
    id = created.stdout.toString().trim();
  });

  test("another process of the same user finds it", async () => {
    assert.match(id, /^sb-[0-9a-f]{16}$/);
    const [listed] = JSON.parse((await osb(["ls", "--json"])).stdout.toString()) as { id: string; alias: string }[];
    assert.deepEqual([listed?.id, listed?.alias], [id, "mine"]);
    assert.match((await osb(["get", id])).stdout.toString(), /^status +running$/m);
    const file = join(env["OPENSANDBOX_DATA_DIR"] ?? "", "server.json");
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.equal((JSON.parse(await readFile(file, "utf8")) as { url: string }).url, ready.url);
  });

  test("exec passes streams, environment and code through", async () => {
    const { code, stdout } = await osb(
      ["exec", "-e", "A=b", id, "--", "sh", "-c", "cat; echo $A $FROM_CREATE; exit 5"],
      "in\n",
    );
    assert.deepEqual([code, stdout.toString()], [5, "in\nb yes\n"]);
    assert.equal((await osb(["exec", id, "echo a line | tr a-z A-Z"])).stdout.toString(), "A LINE\n");
    const missing = await osb(["exec", "sb-00000000", "--", "true"]);
    assert.deepEqual(failureOf(missing), { code: 1, says: "osb: sandbox not found" });
    const unwelcome = await osb(["exec", "--api-key", "wrong", id, "--", "true"]);
    assert.deepEqual(failureOf(unwelcome), { code: 1, says: "osb: invalid API key" });
  });

  test("large input arrives whole", async () => {
    const sent = randomBytes(20_000_000);
    const { stdout } = await osb(["exec", id, "--", "sha256sum"], sent);
    assert.equal(stdout.toString().slice(0, 64), createHash("sha256").update(sent).digest("hex"));
  });

  test("an input that stays open or is not read does not delay the end", async () => {
    assert.equal((await start(["exec", id, "--", "echo", "done"]).ended).stdout.toString(), "done\n");
    assert.equal((await osb(["exec", id, "--", "true"], randomBytes(3_000_000))).code, 0);
    assert.equal((await start(["exec", "-n", id, "--", "cat"]).ended).code, 0);
  });

  test("exit codes of a signal, a missing command and a timeout", async () => {
    assert.equal((await osb(["exec", id, "--", "sh", "-c", "kill -9 $$"])).code, 137);
    assert.equal((await osb(["exec", id, "--", "no-such-program", "x"])).code, 127);
    assert.equal((await osb(["exec", "--timeout", "1", id, "--", "sleep", "60"])).code, 124);
  });

  test("--json prints one line, and the exit code is that of the command", async () => {
    const { code, stdout } = await osb(["exec", "--json", id, "--", "sh", "-c", "echo out; echo err >&2; exit 4"]);
    const result = { sandboxId: id, exitCode: 4, stdout: "out\n", stderr: "err\n" };
    assert.deepEqual([code, JSON.parse(stdout.toString())], [4, result]);
  });

  test("run uses the server and removes its sandbox", async () => {
    assert.equal((await osb(["run", "--", "echo", "hi"])).stdout.toString(), "hi\n");
    assert.equal((JSON.parse((await osb(["ls", "--json"])).stdout.toString()) as unknown[]).length, 1);
  });

  test("cp copies files and directories in both directions", async () => {
    const from = join(directory, "from");
    await mkdir(join(from, "sub/empty"), { recursive: true });
    await writeFile(join(from, "program"), "#!/bin/sh\n", { mode: 0o755 });
    await writeFile(join(from, "sub/large"), randomBytes(3_000_000));
    await symlink("program", join(from, "link"));

    const there = await osb(["cp", "--json", from, `${id}:copy`]);
    assert.deepEqual(JSON.parse(there.stdout.toString()), { files: 2, directories: 3, links: 1, bytes: 3_000_010 });
    const back = join(directory, "back");
    assert.equal((await osb(["cp", `${id}:copy`, back])).code, 0);
    assert.deepEqual(await readFile(join(back, "sub/large")), await readFile(join(from, "sub/large")));
    assert.equal((await stat(join(back, "program"))).mode & 0o777, 0o755);
    assert.equal(await readlink(join(back, "link")), "program");
    assert.ok((await stat(join(back, "sub/empty"))).isDirectory());

    // Copies into an existing directory, under the same name, and several sources at once.
    await osb(["cp", join(from, "program"), join(from, "sub"), `${id}:copy/sub`]);
    const listed = await osb(["exec", id, "ls copy/sub copy/sub/sub"]);
    assert.equal(listed.stdout.toString(), "copy/sub:\nempty\nlarge\nprogram\nsub\n\ncopy/sub/sub:\nempty\nlarge\n");
    await osb(["cp", `${id}:copy/program`, `${directory}/`]);
    assert.equal(await readFile(join(directory, "program"), "utf8"), "#!/bin/sh\n");

    const nothing = await osb(["cp", `${id}:nothing`, directory]);
    assert.deepEqual(failureOf(nothing), { code: 1, says: "osb: /home/sandbox/nothing does not exist" });
  });

  test("cp - copies from standard input or to standard output", async () => {
    const content = randomBytes(3_000_000);
    assert.equal((await osb(["cp", "-", `${id}:streamed`], content)).code, 0);
    const { code, stdout } = await osb(["cp", `${id}:streamed`, "-"]);
    assert.equal(code, 0);
    assert.deepEqual(stdout, content);
  });

  test("an interrupted cp leaves no torn file on either side", async () => {
    await osb(["exec", id, "echo before > kept; truncate --size 20G huge"]);
    const sending = start(["cp", "-", `${id}:kept`]);
    sending.stdin?.write(randomBytes(3_000_000));
    await osb(["exec", id, "until ls -A | grep -vxE '[a-z]+' >/dev/null; do sleep 0.05; done"]);
    sending.kill("SIGINT");
    assert.equal((await sending.ended).code, 130);
    assert.equal((await osb(["exec", id, "cat kept"])).stdout.toString(), "before\n");

    const to = join(directory, "torn");
    await mkdir(to);
    await writeFile(join(to, "huge"), "before");
    const changes = watch(to);
    const begun = once(changes, "change");
    const receiving = start(["cp", `${id}:huge`, to]);
    await begun;
    changes.close();
    receiving.kill("SIGINT");
    assert.equal((await receiving.ended).code, 130);
    assert.deepEqual(await readdir(to), ["huge"]);
    assert.equal(await readFile(join(to, "huge"), "utf8"), "before");
    await osb(["exec", id, "rm huge kept"]);
  });

  test("exec --detach prints the session, which keeps running", async () => {
    const started = (await osb(["exec", "--detach", id, "--", "sleep", "100"])).stdout.toString().trim();
    const listed = JSON.parse((await osb(["session", "ls", "--json", id])).stdout.toString()) as { id: string }[];
    assert.ok(listed.some((session) => session.id === started));
    assert.equal((await osb(["session", "kill", id, started])).code, 0);
  });

  test("create prints the requested port and token", async () => {
    const { code, stdout, stderr } = await osb(["create", "--port", "8080", "--preview-token", "auto"]);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /^osb: port \d+ of the server forwards to port 8080 of the sandbox$/m);
    assert.match(stderr, /^osb: previews of the sandbox require the token \S{16,}$/m);
    assert.equal((await osb(["kill", stdout.toString().trim()])).code, 0);
  });

  test("session logs prints the kept output and ends; with --follow it waits", async () => {
    const script = "echo err >&2; echo out; read word";
    const session = (await osb(["session", "start", id, "--", "sh", "-c", script])).stdout.toString().trim();
    const shown = async (...options: string[]): Promise<EndedCli> =>
      await osb(["session", "logs", ...options, id, session]);
    const following = start(["session", "logs", "--follow", id, session]);
    assert.equal(await firstOutput(following), "out\n");
    const running = await shown();
    assert.deepEqual([running.code, running.stdout.toString()], [0, "out\n"]);
    assert.equal((await osb(["session", "kill", id, session])).code, 0);
    for (const { code, stdout, stderr } of [await following.ended, await shown()]) {
      assert.deepEqual([code, stdout.toString(), stderr], [0, "out\n", "err\n"]);
    }
    const asJson = JSON.parse((await shown("--json")).stdout.toString()) as unknown;
    assert.deepEqual(asJson, { id: session, stdout: "out\n", stderr: "err\n" });
    const nothing = await osb(["session", "logs", id, "00000000"]);
    assert.deepEqual(failureOf(nothing), { code: 1, says: "osb: session not found" });
  });

  test("pool prints the ready machines, and logs prints the machine's console", async () => {
    assert.match((await osb(["pool"])).stdout.toString(), /^READY +WANTED +IMAGE +SHAPE\n\d+ +\d+ /);
    const { code, stderr } = await osb(["logs", "sb-00000000"]);
    assert.deepEqual([code, stderr], [1, "osb: sandbox not found\n"]);
  });

  test("a shell completes ids by asking the server, and completes none without a server", async () => {
    const words = ["completion", "words", "--", "get", ""];
    assert.deepEqual((await osb(words)).stdout.toString(), `${id}\n`);
    const alone = await osb(["--api-url", "http://127.0.0.1:1", ...words]);
    assert.deepEqual([alone.code, alone.stdout.toString(), alone.stderr], [0, "", ""]);
  });

  test("a port in use is reported with advice", async () => {
    const { code, stdout, stderr } = await osb(["up", "--port", new URL(ready.url).port]);
    assert.deepEqual([code, stdout.toString()], [1, ""]);
    assert.match(stderr, /osb: port \d+ on 127\.0\.0\.1 is in use/);
  });

  test("an interrupted command handles the signal itself, and the sandbox stays", async () => {
    const script = "trap 'echo bye; exit 7' INT; echo running; while :; do sleep 0.1; done";
    const careful = await running(start(["exec", id, "--", "sh", "-c", script]));
    careful.kill("SIGINT");
    assert.equal((await careful.ended).code, 7);
    const started = await running(start(["exec", id, "--", "sh", "-c", "echo running; exec sleep 600"]));
    started.kill("SIGINT");
    assert.equal((await started.ended).code, 130);
    assert.match((await osb(["get", id])).stdout.toString(), /^status +running$/m);
  });

  test("kill and the server's exit leave nothing; the server keeps its key", async () => {
    assert.equal((await osb(["kill", id])).stdout.toString(), `killed ${id}\n`);
    assert.equal((await osb(["create"])).code, 0);
    server.kill("SIGINT");
    const { code, stderr } = await server.ended;
    assert.equal(code, 0);
    assert.match(stderr, /^osb: stopping the server; hibernating its sandboxes first$/m);
    nothingLeft();
    const alone = await osb(["ls"]);
    assert.equal(alone.code, 1);
    assert.match(alone.stderr, /^osb: no server runs on this host: start one with 'osb up'/);

    const again = start(["up", "--port", "0", "--json"]);
    assert.equal((JSON.parse(await firstOutput(again)) as typeof ready).apiKey, ready.apiKey);
    again.kill("SIGTERM");
    assert.equal((await again.ended).code, 0);
  });
});

test("after kill -9 of a server, no request reaches another process on its port", async (t) => {
  const own = { env: { ...env, OPENSANDBOX_DATA_DIR: join(directory, "killed") }, stdin: null };
  const killed = startCli(program, ["up", "--port", "0", "--json"], own);
  const { url } = JSON.parse(await firstOutput(killed)) as { url: string };
  const listed = await startCli(program, ["ls"], own).ended;
  assert.deepEqual([listed.code, listed.stdout.toString()], [0, "no sandboxes\n"]);
  killed.kill("SIGKILL");
  await killed.ended;

  let connections = 0;
  const imposter = createServer(() => (connections += 1)).listen(Number(new URL(url).port), "127.0.0.1");
  t.after(() => imposter.close());
  await eventOf(imposter, "listening");
  const { code, stderr } = await startCli(program, ["ls"], own).ended;
  assert.equal(code, 1);
  assert.match(stderr, /^osb: no server runs on this host/m);
  assert.equal(connections, 0);
});

test("a data directory that is not writable is reported with advice", async () => {
  const file = join(directory, "a-file");
  await writeFile(file, "");
  const dataDirectory = join(file, "data");
  const started = startCli(program, ["up"], { env: { ...env, OPENSANDBOX_DATA_DIR: dataDirectory }, stdin: null });
  const { code, stderr } = await started.ended;
  assert.equal(code, 1);
  assert.ok(stderr.includes(`osb: cannot write to the data directory ${dataDirectory} `), stderr);
});

test("a missing QEMU is reported with advice", async () => {
  const { OPENSANDBOX_VM_BACKEND: _, ...real } = env;
  const { code, stderr } = await startCli(program, ["up"], {
    env: { ...real, OPENSANDBOX_QEMU_BIN: "/no/qemu" },
    stdin: null,
  }).ended;
  assert.equal(code, 1);
  assert.match(stderr, /^osb: \/no\/qemu does not run\. QEMU 9\.0 or newer is needed/m);
});

test("only terminals get colours, and not with NO_COLOR", async () => {
  // The start of a colour's escape sequence: the progress line of a slow host contains other sequences.
  const colour = "\u001b[3";
  const seen = async (more: Record<string, string>): Promise<string> => {
    const line = program.map((word) => `'${word}'`).join(" ");
    const terminal = ["script", "--quiet", "--command", `${line} doctor`, "/dev/null"] as const;
    const shown = startCli(terminal, [], { env: { ...env, TERM: "xterm", SHELL: "/bin/sh", ...more } });
    return (await shown.ended).stdout.toString();
  };
  assert.ok((await seen({})).includes(colour));
  const plain = await seen({ NO_COLOR: "1" });
  assert.ok(plain !== "" && !plain.includes(colour), plain);
  const { stdout } = await osb(["doctor"]);
  assert.ok(stdout.length > 0 && !stdout.includes(colour));
});

for (const line of ["--help", "run --help", "up --help", "agent run --help", "completion bash", "version"]) {
  test(`osb ${line} loads no code of the server, of the SDK or of other commands`, async () => {
    const script = `import { registerHooks } from "node:module";
      registerHooks({ load(url, context, next) {
        if (url.startsWith("file:")) process.stderr.write(url + "\\n");
        return next(url, context);
      } });
      await import(${JSON.stringify(main)});`;
    const [node, quiet] = program;
    const asModule = [node, quiet, "--input-type=module", "-e", script, "--", "osb"] as const;
    // Node takes the script for no argument, and the first one for the program.
    const { code, stderr } = await startCli(asModule, line.split(" "), { env, stdin: null }).ended;
    const loaded = stderr.trimEnd().split("\n");
    assert.equal(code, 0, stderr);
    assert.ok(loaded.some((url) => url.endsWith("/commands/commands.ts")));
    assert.deepEqual(
      loaded.filter((url) => !/\/packages\/(cli|wire)\//.test(url)),
      [],
    );
  });
}
