import assert from "node:assert/strict";
import { chmod } from "node:fs/promises";
import { after, before, suite, test } from "node:test";
import { cliEnvironment, type EndedCli, firstOutput, startCli, type StartedCli } from "../e2e/cli.ts";
import { installPackage } from "./installed-package.ts";

suite("the published package, installed without sources", () => {
  const stack = new AsyncDisposableStack();
  let start: (...args: readonly string[]) => StartedCli;
  const osb = async (...args: readonly string[]): Promise<EndedCli> => await start(...args).ended;

  before(async () => {
    const installed = await installPackage((undo) => stack.defer(undo));
    // Machines run as separate users, who need to pass through this directory.
    await chmod(installed.directory, 0o711);
    const env = { ...cliEnvironment(installed.directory), HOME: installed.directory };
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
});
