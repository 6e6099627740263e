import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { type EndedCli, firstOutput, startCli, type StartedCli } from "../e2e/cli.ts";

// A server, its database and the command line as processes, with the fake hypervisor.
const main = join(import.meta.dirname, "../../packages/cli/src/start.ts");
const program = [process.execPath, "--disable-warning=ExperimentalWarning", main] as const;

suite("osb admin", () => {
  let directory: string;
  let env: Record<string, string>;
  const servers: StartedCli[] = [];

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-admin-"));
    env = {
      OPENSANDBOX_VM_BACKEND: "fake",
      OPENSANDBOX_ALLOW_FAKE: "1",
      OPENSANDBOX_DATA_DIR: join(directory, "data"),
      XDG_CONFIG_HOME: join(directory, "config"),
    };
  });
  after(async () => {
    for (const server of servers) server.kill("SIGKILL");
    await rm(directory, { recursive: true, force: true });
  });

  async function up(): Promise<{ readonly cli: StartedCli; readonly url: string; readonly apiKey: string }> {
    const cli = startCli(program, ["up", "--port", "0", "--json"], { env });
    servers.push(cli);
    return { cli, ...(JSON.parse(await firstOutput(cli)) as { url: string; apiKey: string }) };
  }

  const osb = async (...args: string[]): Promise<EndedCli> => await startCli(program, args, { env, stdin: null }).ended;

  async function ask(url: string, apiKey: string, method: string, path: string): Promise<Record<string, string>> {
    const init = { method, headers: { "x-api-key": apiKey }, signal: AbortSignal.timeout(60_000) };
    const response = await fetch(url + path, method === "POST" ? { ...init, body: "{}" } : init);
    assert.ok(response.ok, `${method} ${path}: ${response.status}`);
    return (await response.json()) as Record<string, string>;
  }

  test("backs up a running server; after the loss of its data directory its key and rows are back", async () => {
    const target = join(directory, "backup");
    const first = await up();
    const { sandboxID: id = "" } = await ask(first.url, first.apiKey, "POST", "/api/sandboxes");

    const made = await osb("admin", "backup", target, "--json");
    assert.equal(made.code, 0, made.stderr);
    const { contents } = JSON.parse(made.stdout.toString()) as { contents: { onlyInMachines: object[] } };
    assert.deepEqual(contents.onlyInMachines, [{ id, state: "running" }]);
    assert.equal((await ask(first.url, first.apiKey, "GET", `/api/sandboxes/${id}`))["status"], "running");

    const refused = await osb("admin", "restore", "--force", target);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /a server runs on .*: stop it before you restore/);

    first.cli.kill("SIGTERM");
    await first.cli.ended;
    await rm(env["OPENSANDBOX_DATA_DIR"]!, { recursive: true });
    const restored = await osb("admin", "restore", target);
    assert.equal(restored.code, 0, restored.stderr);
    assert.match(restored.stdout.toString(), new RegExp(`without their disks +${id}`));

    const second = await up();
    assert.equal(second.apiKey, first.apiKey);
    assert.equal((await ask(second.url, first.apiKey, "GET", `/api/sandboxes/${id}`))["status"], "error");
    second.cli.kill("SIGTERM");
    assert.equal((await second.cli.ended).code, 0);
  });

  test("restores the daily copy that a server made beside its database", async () => {
    const server = await up();
    server.cli.kill("SIGTERM");
    await server.cli.ended;
    const copy = join(env["OPENSANDBOX_DATA_DIR"]!, "opensandbox.sqlite.copy-daily");
    const restored = await osb("admin", "restore", "--force", copy);
    assert.equal(restored.code, 0, restored.stderr);
    assert.equal((await up()).apiKey, server.apiKey);
  });

  test("says what is wrong with a backup that does not exist", async () => {
    const { code, stderr } = await osb("admin", "restore", join(directory, "none"));
    assert.deepEqual([code, stderr], [1, `osb: there is no backup ${join(directory, "none")}\n`]);
  });
});
