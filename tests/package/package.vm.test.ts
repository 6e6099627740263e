import assert from "node:assert/strict";
import { chmod, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { after, before, suite, test } from "node:test";
import { version } from "@opensandbox/wire/version.ts";
import { cliEnvironment, type EndedCli, firstOutput, startCli, type StartedCli } from "../e2e/cli.ts";
import { installPackage } from "./installed-package.ts";

suite("the published package, installed without sources", () => {
  const stack = new AsyncDisposableStack();
  let start: (...args: readonly string[]) => StartedCli;
  /** Makes the installed program another version. */
  let makeNextVersion: () => Promise<void>;
  const osb = async (...args: readonly string[]): Promise<EndedCli> => await start(...args).ended;

  before(async () => {
    const installed = await installPackage((undo) => stack.defer(undo));
    // Machines run as separate users, who need to pass through this directory.
    await chmod(installed.directory, 0o711);
    const env = { ...cliEnvironment(installed.directory), HOME: installed.directory };
    const file = join(dirname(installed.osb), "../opensandbox/packages/wire/src/version.js");
    makeNextVersion = async () => {
      const text = await readFile(file, "utf8");
      assert.ok(text.includes(`"${version}"`), text);
      await writeFile(file, text.replace(version, "99.0.0"));
    };
    start = (...args) => startCli([installed.osb], args, { env, stdin: null });
  });
  after(() => stack.disposeAsync());

  test("runs a command in a real machine", async () => {
    const { code, stdout, stderr } = await osb("run", "--image", "minimal", "--", "uname", "-a");
    assert.equal(code, 0, stderr);
    assert.match(stdout.toString(), /^Linux .* x86_64 GNU\/Linux$/m);
  });

  test("recognizes the snapshots of its machines as restorable", async () => {
    const server = start("up", "--port", "0", "--json");
    await firstOutput(server);
    const id = (await osb("create", "--image", "minimal")).stdout.toString().trim();
    assert.equal((await osb("hibernate", id)).code, 0);
    const sound = await osb("admin", "snapshots", "--json");
    assert.deepEqual([sound.code, JSON.parse(sound.stdout.toString())], [0, []], sound.stderr);
    server.kill("SIGTERM");
    assert.equal((await server.ended).code, 0, server.stderr());
  });

  test("the next version takes over a running machine, and its processes run on", async () => {
    const server = start("up", "--port", "0", "--json");
    await firstOutput(server);
    const id = (await osb("create", "--image", "minimal")).stdout.toString().trim();
    const inSandbox = async (line: string): Promise<string> => {
      const { code, stdout, stderr } = await osb("exec", id, "--", "sh", "-c", line);
      assert.equal(code, 0, stderr);
      return stdout.toString().trim();
    };
    const process = await inSandbox("sleep 100000 >/dev/null 2>&1 & echo $!");
    const boot = await inSandbox("cat /proc/sys/kernel/random/boot_id");
    // The unit of the service sends this signal when it restarts.
    server.kill("SIGUSR2");
    assert.equal((await server.ended).code, 0, server.stderr());
    await makeNextVersion();
    const next = start("up", "--port", "0", "--json");
    await firstOutput(next);
    assert.match((await osb("--version")).stdout.toString(), /^osb 99\.0\.0 /);
    assert.equal(await inSandbox("cat /proc/sys/kernel/random/boot_id"), boot);
    assert.equal(await inSandbox(`kill -0 ${process} && echo runs`), "runs");
    next.kill("SIGTERM");
    assert.equal((await next.ended).code, 0, next.stderr());
  });
});
