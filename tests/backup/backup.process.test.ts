import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
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
      NODE_COMPILE_CACHE: join(directory, "compiled"),
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

  /** The command is killed when it renames a file for the n-th time. */
  async function osbKilledAt(n: number, ...args: string[]): Promise<EndedCli> {
    const preload = `
      import files from "node:fs/promises";
      import { syncBuiltinESMExports } from "node:module";
      const { rename } = files;
      let count = 0;
      files.rename = async (...paths) => {
        count += 1;
        if (count === ${n}) process.kill(process.pid, "SIGKILL");
        return await rename(...paths);
      };
      syncBuiltinESMExports();`;
    const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(preload)}`;
    return await startCli(program, args, { env: { ...env, NODE_OPTIONS }, stdin: null }).ended;
  }

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
    const again = await up();
    assert.equal(again.apiKey, server.apiKey);
    again.cli.kill("SIGTERM");
    assert.equal((await again.cli.ended).code, 0);
  });

  test("a restore that is killed at any rename keeps the earlier content, and a repeated one completes", async () => {
    const dataDirectory = env["OPENSANDBOX_DATA_DIR"]!;
    const target = join(directory, "for-kills");
    assert.equal((await osb("admin", "backup", target)).code, 0);
    let renames = 0;
    for (let killed = true; killed;) {
      renames += 1;
      await writeFile(join(dataDirectory, "api-key"), `osb_before-${renames}\n`);
      const { code, stderr } = await osbKilledAt(renames, "admin", "restore", "--force", target);
      killed = code === 137;
      assert.ok(killed || code === 0, `${code}: ${stderr}`);
      // Whatever was replaced is in one of these places.
      const places = (await readdir(dataDirectory)).filter((name) => name.startsWith("replaced-"));
      const kept = await Promise.all(
        ["", ...places].map((place) => readFile(join(dataDirectory, place, "api-key"), "utf8").catch(() => "")),
      );
      assert.ok(kept.includes(`osb_before-${renames}\n`), `after ${renames} renames`);
      const isMarked = (await readdir(dataDirectory)).includes("restore-in-progress");
      const isWhole = (await readdir(dataDirectory)).includes("opensandbox.sqlite");
      assert.ok(isMarked || isWhole, "a server that starts finds the database or the mark");
      if (isMarked) assert.match((await osb("up", "--port", "0")).stderr, /a restore of .* has not ended/);
      const repeated = await osb("admin", "restore", "--force", target);
      assert.equal(repeated.code, 0, repeated.stderr);
      const left = (await readdir(dataDirectory)).filter((name) => /unfinished|progress/.test(name));
      assert.deepEqual(left, []);
    }
    assert.ok(renames >= 5, `${renames}`);
  });

  test("says what is wrong with a backup that does not exist", async () => {
    const { code, stderr } = await osb("admin", "restore", join(directory, "none"));
    assert.deepEqual([code, stderr], [1, `osb: there is no backup ${join(directory, "none")}\n`]);
  });
});
