import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { promisify } from "node:util";
import { type SpawnedServer, spawnServer } from "./spawn-server.ts";

const run = promisify(execFile);

/** A Python that can import the package e2b of PyPI, and the program of the npm package @e2b/cli. */
const python = process.env["OPENSANDBOX_TEST_E2B_PYTHON"] ?? "python3";
const cli = process.env["OPENSANDBOX_TEST_E2B_CLI"] ?? "e2b";

const hasPython = spawnSync(python, ["-c", "import e2b"]).status === 0;
const hasCli = spawnSync(cli, ["--version"], { timeout: 30_000 }).status === 0;

// The published clients that are not npm packages of this repository, against a fake machine.
suite("the other published clients of E2B", () => {
  const stack = new AsyncDisposableStack();
  let world: SpawnedServer;
  let env: NodeJS.ProcessEnv;

  before(async () => {
    world = stack.use(await spawnServer({ env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" } }));
    const own = { E2B_API_URL: world.url, E2B_SANDBOX_URL: world.url, E2B_API_KEY: world.apiKey };
    env = { ...process.env, ...own, E2B_DOMAIN: "localhost" };
  });
  after(() => stack.disposeAsync());

  for (const script of ["sync_client.py", "async_client.py"]) {
    const skip = hasPython ? false : "the package e2b of PyPI is not installed (pip install e2b==2.63.0)";
    test(`Python: ${script} finds what it relies on`, { skip }, async () => {
      await run(python, [join(import.meta.dirname, "e2b-python", script)], { env, timeout: 120_000 });
    });
  }

  const skip = hasCli ? false : "the command e2b is not installed (npm install -g @e2b/cli@2.19.0)";
  test("the command line creates, lists, uses and kills a sandbox", { skip }, async () => {
    const e2b = async (...args: string[]): Promise<string> => {
      const running = run(cli, ["sandbox", ...args], { env, timeout: 60_000, killSignal: "SIGKILL" });
      // A command passes its standard input on, and waits for the end of it.
      running.child.stdin?.end();
      return (await running).stdout;
    };
    await e2b("create", "--detach", "base");
    const listed = JSON.parse(await e2b("list", "--format", "json")) as { sandboxId: string }[];
    const id = listed[0]?.sandboxId ?? assert.fail("the list is empty");
    assert.equal(await e2b("exec", id, "echo", "hello"), "hello\n");
    assert.match(await e2b("info", id), /State: running/);
    assert.match(await e2b("metrics", id), /Memory/);
    assert.match(await e2b("kill", id), /has been killed/);
    assert.ok(!(await e2b("list", "--format", "json")).includes(id));
  });
});
