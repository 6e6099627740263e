import assert from "node:assert/strict";
import { chmod, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { cliEnvironment, type EndedCli, firstOutput, startCli, type StartedCli } from "./cli.ts";
import { hostState } from "./host-state.ts";

// The launcher and the command line, called as a user calls them, with real machines.

const launcher = join(import.meta.dirname, "../../opensandbox");

let directory: string;
let env: Record<string, string>;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "osb-cli-vm-"));
  await chmod(directory, 0o711);
  env = cliEnvironment(directory);
  // Everything that the first machine needs is made here, so that no test waits for it.
  const first = await osb(["run", "--image", "minimal", "--", "true"]);
  assert.equal(first.code, 0, first.stderr);
});
after(() => rm(directory, { recursive: true, force: true }));

const start = (args: readonly string[], stdin: string | null = null): StartedCli =>
  startCli([launcher], args, { env, stdin });

const osb = async (args: readonly string[], stdin: string | null = null): Promise<EndedCli> =>
  await start(args, stdin).ended;

const run = (...command: readonly string[]): readonly string[] => ["run", "--image", "minimal", "--", ...command];

suite("run, without a server", () => {
  let state: object;
  before(() => {
    state = hostState(env["OPENSANDBOX_DATA_DIR"] ?? "");
  });
  const nothingLeft = (): void => assert.deepEqual(hostState(env["OPENSANDBOX_DATA_DIR"] ?? ""), state);

  test("standard input reaches the machine, and output comes back", async () => {
    assert.equal((await osb(run("cat"), "hi\n")).stdout.toString(), "hi\n");
  });

  test("run keeps the output streams apart and exits with the command's code", async () => {
    const { code, stdout, stderr } = await osb(run("sh", "-c", "echo out; echo err >&2; exit 3"));
    assert.deepEqual([code, stdout.toString()], [3, "out\n"]);
    assert.match(stderr, /^err$/m);
  });

  test("50 MB come through whole", async () => {
    const { stdout } = await osb(run("head", "-c", "50000000", "/dev/urandom"));
    assert.equal(stdout.length, 50_000_000);
  });

  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const) {
    test(`${signal} ends a sleeping command within three seconds and leaves nothing`, async () => {
      const started = start(run("sh", "-c", "echo running; exec sleep 60"));
      await firstOutput(started);
      const since = performance.now();
      started.kill(signal);
      const ended = await started.ended;
      const milliseconds = performance.now() - since;
      assert.equal(ended.code, code);
      assert.ok(milliseconds < 3000, `${milliseconds} ms`);
      nothingLeft();
    });
  }

  test("an interrupt while the machine starts leaves nothing", async () => {
    const started = start(run("true"));
    setTimeout(() => started.kill("SIGINT"), 1500);
    const { code } = await started.ended;
    assert.ok(code === 130 || code === 0, `${code}`);
    nothingLeft();
  });
});

suite("with a server", () => {
  let server: StartedCli;
  let id: string;

  before(async () => {
    server = start(["up", "--port", "0", "--json"]);
    await firstOutput(server);
    const created = await osb(["create", "--image", "minimal"]);
    assert.equal(created.code, 0, created.stderr);
    id = created.stdout.toString().trim();
  });
  after(async () => {
    server.kill("SIGTERM");
    assert.equal((await server.ended).code, 0);
  });

  test("exec runs as the requested user in the requested directory", async () => {
    const asSandbox = await osb(["exec", id, "id -un; pwd"]);
    assert.equal(asSandbox.stdout.toString(), "sandbox\n/home/sandbox\n");
    const asRoot = await osb(["exec", "--user", "root", "--cwd", "/tmp", id, "id -un; pwd"]);
    assert.equal(asRoot.stdout.toString(), "root\n/tmp\n");
  });

  test("cp copies a directory in both directions", async () => {
    const from = join(directory, "from");
    await mkdir(join(from, "sub"), { recursive: true });
    await writeFile(join(from, "sub/file"), "content\n", { mode: 0o640 });
    await symlink("sub/file", join(from, "link"));
    assert.equal((await osb(["cp", from, `${id}:/workspace/copy`])).code, 0);
    const seen = await osb(["exec", id, "cat /workspace/copy/link; stat -c '%a %U' /workspace/copy/sub/file"]);
    assert.equal(seen.stdout.toString(), "content\n640 sandbox\n");
    const back = join(directory, "back");
    assert.equal((await osb(["cp", `${id}:/workspace/copy`, back])).code, 0);
    assert.equal(await readFile(join(back, "link"), "utf8"), "content\n");
  });

  test("run uses the server and removes its sandbox", async () => {
    assert.equal((await osb(run("echo", "hi"))).stdout.toString(), "hi\n");
    const listed = JSON.parse((await osb(["ls", "--json"])).stdout.toString()) as { id: string }[];
    assert.deepEqual(
      listed.map((sandbox) => sandbox.id),
      [id],
    );
    assert.equal((await osb(["kill", id])).code, 0);
  });
});
