import assert from "node:assert/strict";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { backUp, restoreBackup, type Server, type ServerConfig, startServer } from "@opensandbox/server";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { worldConfig } from "../e2e/world.ts";

suite("a backup of a running server", () => {
  let root: string;
  let server: Server | undefined;
  const apiKey = "key-of-the-test";
  const options = () => ({ apiUrl: server?.url ?? "", apiKey });
  const limits = () => AbortSignal.timeout(600_000);

  const configOf = (name: string): ServerConfig =>
    worldConfig(join(root, name), {
      OPENSANDBOX_API_KEY: apiKey,
      OPENSANDBOX_READY_MACHINES: "0",
      OPENSANDBOX_DEFAULT_SANDBOX_MEMORY_MB: "512",
    });

  async function start(config: ServerConfig): Promise<void> {
    const request = { embedded: false, image: "minimal", onProgress: () => undefined };
    server = await startServer(config, request, AbortSignal.timeout(1_800_000));
  }

  async function run(sandbox: Sandbox, command: string): Promise<string> {
    const { exitCode, stdout, stderr } = await sandbox.commands.run(command, { timeout: 120 });
    assert.equal(exitCode, 0, `${command}: ${stdout}${stderr}`);
    return stdout.trimEnd();
  }

  before(async () => {
    root = await mkdtemp(join(tmpdir(), "osb-backup-"));
    await chmod(root, 0o711);
  });
  after(async () => {
    await server?.[Symbol.asyncDispose]();
    await rm(root, { recursive: true, force: true });
  });

  test("restores hibernated sandboxes with their memory, and checkpoints, in another data directory", async () => {
    const lost = configOf("lost");
    await start(lost);
    const sandbox = await Sandbox.create({ ...options(), template: "minimal", timeout: 3600 });
    await run(sandbox, "echo kept > /workspace/note; (setsid sleep 100000 > /dev/null 2>&1 &)");
    const pid = await run(sandbox, "pgrep -x sleep");
    const { id: checkpoint } = await sandbox.createCheckpoint("before");
    await eventually(
      "the checkpoint is ready",
      async () => (await sandbox.listCheckpoints()).find(({ id, status }) => id === checkpoint && status === "ready"),
      { withinMs: 600_000, everyMs: 200 },
    );
    await run(sandbox, "echo later > /workspace/note");
    await sandbox.hibernate();
    const running = await Sandbox.create({ ...options(), template: "minimal", timeout: 3600 });

    const target = join(root, "backup");
    const request = { target, databaseOnly: false, snapshots: "link", images: false, onProgress: () => {} } as const;
    const made = await backUp(lost, request, limits());
    assert.deepEqual([made.snapshots, made.missing], [2, []]);
    assert.deepEqual(made.contents.onlyInMachines, [{ id: running.sandboxId, state: "running" }]);

    await server?.[Symbol.asyncDispose]();
    await rm(lost.dataDirectory, { recursive: true });

    const found = configOf("found");
    await restoreBackup(
      found,
      { source: target, force: false, transfer: "link", dryRun: false, onProgress: () => {} },
      limits(),
    );
    await rm(target, { recursive: true });
    await start(found);
    const woken = await Sandbox.connect(sandbox.sandboxId, options());
    await woken.wake({ timeout: 3600 });
    assert.equal(await run(woken, "pgrep -x sleep; cat /workspace/note"), `${pid}\nlater`);
    const fork = await Sandbox.createFromCheckpoint(checkpoint, { ...options(), timeout: 3600 });
    assert.equal(await run(fork, "pgrep -x sleep; cat /workspace/note"), `${pid}\nkept`);
    const ended = await fetch(`${server?.url}/api/sandboxes/${running.sandboxId}`, {
      headers: { "X-API-Key": apiKey },
    });
    assert.equal(((await ended.json()) as { status: string }).status, "error");
  });
});
