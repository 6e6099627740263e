import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { firstOutput, startCli, type StartedCli } from "./cli.ts";

// Defects are planted in a server: a signal makes it throw, or leave a rejection unhandled.
const plant = `
  process.on("SIGPROF", () => { void Promise.reject(new Error("planted rejection")); });
  process.on("SIGVTALRM", () => { throw new Error("planted exception"); });
`;
const main = join(import.meta.dirname, "../../packages/cli/src/start.ts");
const program = [process.execPath, "--disable-warning=ExperimentalWarning", main] as const;

suite("a defect in the server", () => {
  let env: Record<string, string>;
  let directory: string;
  const servers: StartedCli[] = [];

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-defects-"));
    env = {
      OPENSANDBOX_VM_BACKEND: "fake",
      OPENSANDBOX_ALLOW_FAKE: "1",
      OPENSANDBOX_DATA_DIR: join(directory, "data"),
      XDG_CONFIG_HOME: join(directory, "config"),
      NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(plant)}`,
    };
  });
  after(async () => {
    for (const server of servers) server.kill("SIGKILL");
    await rm(directory, { recursive: true, force: true });
  });

  interface RunningServer {
    readonly cli: StartedCli;
    ask(method: string, path: string, body?: object): Promise<Record<string, string>>;
  }

  async function up(): Promise<RunningServer> {
    const cli = startCli(program, ["up", "--port", "0", "--json"], { env });
    servers.push(cli);
    const { url, apiKey } = JSON.parse(await firstOutput(cli)) as { url: string; apiKey: string };
    return {
      cli,
      async ask(method, path, body) {
        const init = { method, headers: { "x-api-key": apiKey }, signal: AbortSignal.timeout(20_000) };
        const response = await fetch(url + path, body === undefined ? init : { ...init, body: JSON.stringify(body) });
        assert.ok(response.ok, `${method} ${path}: ${response.status}`);
        return (await response.json()) as Record<string, string>;
      },
    };
  }

  async function logged(cli: StartedCli, text: string): Promise<void> {
    const giveUp = performance.now() + 20_000;
    while (!cli.stderr().includes(text)) {
      assert.ok(performance.now() < giveUp, `not logged: ${text}\n${cli.stderr()}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  test("a rejection is logged and the server continues; an exception ends it and leaves every machine running", async () => {
    const first = await up();
    const { sandboxID: id = "" } = await first.ask("POST", "/api/sandboxes", {});
    const run = { cmd: "sh", args: ["-c", "echo $PPID"] };
    const { stdout = "" } = await first.ask("POST", `/api/sandboxes/${id}/exec/run`, run);
    const guest = Number(stdout);
    assert.ok(guest > 1, stdout);

    first.cli.kill("SIGPROF");
    await logged(first.cli, "defect: unhandled rejection; the server goes on");
    assert.match(first.cli.stderr(), /planted rejection[^\n]*\\n +at /);
    assert.equal((await first.ask("GET", `/api/sandboxes/${id}`))["status"], "running");

    first.cli.kill("SIGVTALRM");
    const { code, stderr } = await first.cli.ended;
    assert.equal(code, 1);
    assert.match(stderr, /osb: internal error: Error: planted exception/);
    assert.doesNotMatch(stderr, /hibernated|sandbox stopped/);
    // The fake machine is a process of this host, and it keeps running.
    process.kill(guest, 0);

    // The fake hypervisor adopts no process, so the next server has its disks only.
    const second = await up();
    const { status = "" } = await second.ask("GET", `/api/sandboxes/${id}`);
    assert.equal(status, "error");
    second.cli.kill("SIGTERM");
    assert.equal((await second.cli.ended).code, 0);
  });
});
