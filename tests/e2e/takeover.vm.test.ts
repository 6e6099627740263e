import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { machineProcesses } from "./machine-processes.ts";
import { endServer, spawnServerOn } from "./spawn-server.ts";

// Successive servers over the same machine.

/** Machines boot in seconds, or in minutes on a crowded host without KVM. */
const patience = { withinMs: 600_000, everyMs: 100 };

interface OneServer {
  readonly process: ChildProcess;
  readonly options: { readonly apiUrl: string; readonly apiKey: string };
}

async function spawnServer(dataDirectory: string, failpoints = ""): Promise<OneServer> {
  const {
    process: child,
    url,
    apiKey,
  } = await spawnServerOn(dataDirectory, {
    stays: true,
    // The log of these servers is long and says nothing about the test.
    quiet: true,
    env: {
      OPENSANDBOX_API_KEY: "key-of-the-test",
      OPENSANDBOX_READY_MACHINES: "0",
      OPENSANDBOX_FAILPOINTS: failpoints,
      OPENSANDBOX_DEFAULT_SANDBOX_MEMORY_MB: "512",
    },
  });
  return { process: child, options: { apiUrl: url, apiKey } };
}

async function end({ process: child }: OneServer, signal: NodeJS.Signals): Promise<number | null> {
  return await endServer(child, signal);
}

async function run(sandbox: Sandbox, command: string): Promise<string> {
  const { exitCode, stdout, stderr } = await sandbox.commands.run(command, { timeout: 120 });
  assert.equal(exitCode, 0, `${command}: ${stdout}${stderr}`);
  return stdout.trimEnd();
}

async function restoredFrom(sandbox: Sandbox, { options }: OneServer): Promise<unknown> {
  const response = await fetch(`${options.apiUrl}/api/sandboxes/${sandbox.sandboxId}`, {
    headers: { "X-API-Key": options.apiKey },
  });
  return ((await response.json()) as { restoredFrom?: string }).restoredFrom;
}

test("a machine survives the kill, the replacement and the stop of its server, and the next server finds it", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-takeover-"));
  await chmod(directory, 0o711);
  const servers: OneServer[] = [];
  const next = async (failpoints?: string): Promise<OneServer> => {
    const server = await spawnServer(directory, failpoints);
    servers.push(server);
    return server;
  };
  t.after(async () => {
    for (const { process: child } of servers) child.kill("SIGKILL");
    for (const pid of await machineProcesses(directory)) process.kill(pid, "SIGKILL");
    await rm(directory, { recursive: true, force: true });
  });

  const first = await next();
  let sandbox = await Sandbox.create({ ...first.options, template: "minimal" });
  await run(sandbox, "echo kept > /workspace/note; (setsid sleep 100000 > /dev/null 2>&1 &)");
  const pid = await run(sandbox, "pgrep -x sleep");
  const machines = await machineProcesses(directory);
  assert.equal(machines.length, 1);

  /** Polls like a client of the wire: only an answer that says "running" is followed by another poll. */
  async function resultOf(execId: string, { options }: OneServer): Promise<unknown> {
    const ask = async (): Promise<object | undefined> => {
      const url = `${options.apiUrl}/api/sandboxes/${sandbox.sandboxId}/exec/${execId}/result`;
      const response = await fetch(url, { headers: { "X-API-Key": options.apiKey } });
      assert.equal(response.status, 200);
      const reply = (await response.json()) as { running: boolean };
      return reply.running ? undefined : reply;
    };
    return await eventually(`command ${execId} ends`, ask, patience);
  }

  /** The connection ended without an answer that a client would take for the final result. */
  function assertBroken(error: unknown): void {
    assert.ok(error instanceof TypeError, String(error));
  }

  /** Writes three megabytes, waits for a file and announces its end. */
  async function startWaiting({ options }: OneServer): Promise<string> {
    const cmd = "yes x | head -c 3000000; until rm /tmp/go; do sleep 0.1; done 2> /dev/null; echo end; exit 5";
    const response = await fetch(`${options.apiUrl}/api/sandboxes/${sandbox.sandboxId}/exec/run-async`, {
      method: "POST",
      headers: { "X-API-Key": options.apiKey },
      body: JSON.stringify({ cmd, timeout: 600 }),
    });
    assert.equal(response.status, 202);
    return ((await response.json()) as { execId: string }).execId;
  }

  const waited = { running: false, exitCode: 5, stdout: `${"x\n".repeat(1_500_000)}end\n`, stderr: "" };

  await t.test("a killed server leaves its machine to the next", async () => {
    const execId = await startWaiting(first);
    const asking = resultOf(execId, first).catch((error: unknown) => error);
    await end(first, "SIGKILL");
    assertBroken(await asking);
    const second = await next();
    sandbox = await Sandbox.connect(sandbox.sandboxId, second.options);
    assert.equal(sandbox.status, "running");
    assert.deepEqual(await machineProcesses(directory), machines);
    await run(sandbox, "touch /tmp/go");
    assert.deepEqual(await resultOf(execId, second), waited);
    assert.equal(await run(sandbox, "pgrep -x sleep; cat /workspace/note"), `${pid}\nkept`);
  });

  await t.test("a replaced server leaves its machine to the next", async () => {
    assert.equal(await end(servers.at(-1) ?? assert.fail(), "SIGUSR2"), 0);
    assert.deepEqual(await machineProcesses(directory), machines);
    const third = await next();
    sandbox = await Sandbox.connect(sandbox.sandboxId, third.options);
    assert.equal(sandbox.status, "running");
    assert.equal(await run(sandbox, "pgrep -x sleep"), pid);
    await sandbox.files.write("/workspace/later", "also kept");
  });

  await t.test("a server that receives SIGTERM hibernates its machine", async () => {
    const third = servers.at(-1) ?? assert.fail();
    const execId = await startWaiting(third);
    const asking = resultOf(execId, third).catch((error: unknown) => error);
    assert.equal(await end(third, "SIGTERM"), 0);
    assertBroken(await asking);
    assert.deepEqual(await machineProcesses(directory), []);
    const fourth = await next();
    sandbox = await Sandbox.connect(sandbox.sandboxId, fourth.options);
    assert.equal(sandbox.status, "hibernated");
    // The poll for the result and the command both wake the sandbox.
    const touched = run(sandbox, "touch /tmp/go");
    assert.deepEqual(await resultOf(execId, fourth), waited);
    await touched;
    // The sandbox is hibernated while a client polls.
    const second = await startWaiting(fourth);
    const asks = resultOf(second, fourth);
    await sandbox.hibernate();
    await run(sandbox, "touch /tmp/go");
    assert.deepEqual(await asks, waited);
    assert.equal(await run(sandbox, "pgrep -x sleep; cat /workspace/later"), `${pid}\nalso kept`);
    assert.equal(await restoredFrom(sandbox, fourth), "memory");
  });

  await t.test(
    "4: one that dies while it restores a checkpoint leaves the checkpoint, to be restored again",
    async () => {
      const made = await sandbox.createCheckpoint("before");
      const isReady = async (): Promise<boolean> => {
        const { status } = (await sandbox.listCheckpoints()).find(({ id }) => id === made.id) ?? assert.fail();
        assert.ok(status === "ready" || status === "processing", status);
        return status === "ready";
      };
      await eventually("the checkpoint is ready", isReady, patience);
      await sandbox.files.write("/workspace/later", "changed since");
      assert.equal(await end(servers.at(-1) ?? assert.fail(), "SIGUSR2"), 0);
      const dying = await next("resume=exit");
      sandbox = await Sandbox.connect(sandbox.sandboxId, dying.options);
      const died = once(dying.process, "exit");
      await sandbox.restoreCheckpoint(made.id);
      assert.deepEqual(await within("the server dies at its failpoint", died, patience.withinMs), [null, "SIGKILL"]);

      const after = await next();
      sandbox = await Sandbox.connect(sandbox.sandboxId, after.options);
      assert.equal(sandbox.status, "error");
      assert.deepEqual(await machineProcesses(directory), []);
      await assert.rejects(
        sandbox.commands.run("true"),
        /the restore of checkpoint before was interrupted: restore it again/,
      );
      await sandbox.restoreCheckpoint(made.id);
      assert.equal(await run(sandbox, "pgrep -x sleep; cat /workspace/later"), `${pid}\nalso kept`);
      assert.equal(await restoredFrom(sandbox, after), "memory");
      assert.equal((await machineProcesses(directory)).length, 1);
    },
  );

  await t.test("after a host's crash the next call boots its disks", async () => {
    await run(sandbox, "sync");
    await end(servers.at(-1) ?? assert.fail(), "SIGKILL");
    for (const machine of await machineProcesses(directory)) process.kill(machine, "SIGKILL");
    const areGone = async () => (await machineProcesses(directory)).length === 0;
    await eventually("the killed machines are gone", areGone, patience);
    const fifth = await next();
    sandbox = await Sandbox.connect(sandbox.sandboxId, fifth.options);
    assert.equal(sandbox.status, "error");
    assert.equal(await run(sandbox, "cat /workspace/note; pgrep -x sleep || echo booted"), "kept\nbooted");
    assert.equal(await restoredFrom(sandbox, fifth), "disk");
    await sandbox.kill();
    assert.deepEqual(await machineProcesses(directory), []);
    assert.equal(await end(fifth, "SIGTERM"), 0);
  });
});
