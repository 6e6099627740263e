import assert from "node:assert/strict";
import { chmod, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { examineHost, readConfig } from "@opensandbox/server";
import { killProcessesOf } from "../../packages/worker/src/host/kill-by-path.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { machineProcesses } from "./machine-processes.ts";
import { endServer, spawnServerOn } from "./spawn-server.ts";

const backend = { OPENSANDBOX_VM_BACKEND: "firecracker" };
const failed = (await examineHost(readConfig({ ...process.env, ...backend }))).find(
  ({ name, level }) => level === "fail" && ["Firecracker", "network"].includes(name),
);
const skip = failed === undefined ? false : failed.detail;

/** A booted guest under KVM takes seconds, and minutes in a host that is itself emulated. */
const patience = { withinMs: 600_000, everyMs: 500 };

suite("under Firecracker", { skip }, () => {
  let directory: string;
  let server: Awaited<ReturnType<typeof spawnServerOn>>;
  let sandbox: Sandbox;
  const options = () => ({ apiUrl: server.url, apiKey: server.apiKey });

  const start = async (): Promise<void> => {
    const env = { ...backend, OPENSANDBOX_API_KEY: "key-of-the-test", OPENSANDBOX_READY_MACHINES: "0" };
    server = await spawnServerOn(directory, { stays: true, env });
  };

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "osb-firecracker-"));
    await chmod(directory, 0o711);
    await start();
    sandbox = await Sandbox.create({ ...options(), template: "minimal", timeout: 3600 });
  });

  after(async () => {
    server?.process.kill("SIGKILL");
    // The storage daemons of machines too.
    await killProcessesOf(directory);
    await rm(directory, { recursive: true, force: true });
  });

  async function run(command: string, on = sandbox): Promise<string> {
    const { exitCode, stdout, stderr } = await on.commands.run(command, { timeout: 300 });
    assert.equal(exitCode, 0, `${command}: ${stdout}${stderr}`);
    return stdout.trimEnd();
  }

  async function replyOf(path: string, method = "GET"): Promise<{ readonly status: number; readonly body: object }> {
    const response = await fetch(`${server.url}/api/sandboxes/${sandbox.sandboxId}${path}`, {
      method,
      headers: { "X-API-Key": server.apiKey, "Content-Type": "application/json" },
      ...(method === "GET" ? {} : { body: JSON.stringify({ memoryMB: 2048 }) }),
    });
    return { status: response.status, body: (await response.json()) as object };
  }

  test("Firecracker has no capability, no new privileges and a user of its own", async () => {
    const [pid = assert.fail("no machine runs"), ...others] = await machineProcesses(directory);
    assert.deepEqual(others, []);
    const status = await readFile(`/proc/${pid}/status`, "utf8");
    const field = (name: string): string => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1]?.trim() ?? "";
    assert.ok(Number(field("Uid").split(/\s/)[0]) >= 1_900_000_000, field("Uid"));
    const none = "0000000000000000";
    assert.deepEqual([field("CapEff"), field("CapPrm"), field("CapBnd"), field("NoNewPrivs")], [none, none, none, "1"]);
  });

  test("a command runs, with the host's clock", async () => {
    assert.match(await run("uname -a"), /^Linux .*x86_64 GNU\/Linux$/);
    const skew = Math.abs(Number(await run("date +%s")) - Date.now() / 1000);
    assert.ok(skew < 10, `${skew} s`);
  });

  test("files are written and read, including files of several megabytes", async () => {
    await sandbox.files.write("/workspace/note", "first");
    assert.equal(await sandbox.files.read("/workspace/note"), "first");
    const bytes = new Uint8Array(4 * 2 ** 20).map((_, index) => (index * 31) % 251);
    await sandbox.files.write("/workspace/large", bytes);
    assert.ok(Buffer.from(bytes).equals(Buffer.from(await sandbox.files.readBytes("/workspace/large"))));
  });

  test("a sandbox is hibernated and woken with its processes, and its clock is right", async () => {
    await run("(setsid sleep 100000 >/dev/null 2>&1 &)");
    const pid = await run("pgrep -x sleep");
    await sandbox.hibernate();
    assert.deepEqual(await machineProcesses(directory), []);
    await sandbox.wake({ timeout: 3600 });
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${pid}\nfirst`);
    const skew = Math.abs(Number(await run("date +%s")) - Date.now() / 1000);
    assert.ok(skew < 10, `${skew} s`);
  });

  test("a checkpoint is forked twice at once and restored in place, with its processes", async () => {
    const pid = await run("pgrep -x sleep");
    const { id } = await sandbox.createCheckpoint("first");
    await eventually(
      "the checkpoint is ready",
      async () => {
        const { status } = (await sandbox.listCheckpoints()).find((checkpoint) => checkpoint.id === id) ?? {};
        assert.ok(status === "processing" || status === "ready", `the checkpoint is ${status}`);
        return status === "ready";
      },
      patience,
    );
    await run("echo second > /workspace/note; pkill -x sleep");
    const forks = await Promise.all([1, 2].map(() => Sandbox.createFromCheckpoint(id, options())));
    const seen = await Promise.all(forks.map((fork) => run("pgrep -x sleep; cat /workspace/note", fork)));
    assert.deepEqual(seen, [`${pid}\nfirst`, `${pid}\nfirst`]);
    await Promise.all(forks.map((fork) => fork.kill()));
    assert.equal(await run("cat /workspace/note"), "second");
    await sandbox.restoreCheckpoint(id);
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${pid}\nfirst`);
  });

  test("more memory for a running sandbox is refused, and the reply names the hypervisor", async () => {
    const { status, body } = await replyOf("/scale", "POST");
    assert.equal(status, 501);
    assert.match(JSON.stringify(body), /machines of the hypervisor firecracker keep the memory/);
  });

  test("a sandbox is power-cycled on its disks", async () => {
    await run("sync");
    assert.equal((await replyOf("/power-cycle", "POST")).status, 200);
    assert.equal(await run("cat /workspace/note"), "first");
    await run("(setsid sleep 100000 >/dev/null 2>&1 &)");
  });

  test("the next server takes over the machine of a server that was killed", async () => {
    const pid = await run("pgrep -x sleep");
    const machines = await machineProcesses(directory);
    await endServer(server.process, "SIGKILL");
    await start();
    sandbox = await Sandbox.connect(sandbox.sandboxId, options());
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${pid}\nfirst`);
    assert.deepEqual(await machineProcesses(directory), machines);
    await sandbox.hibernate();
    await sandbox.wake({ timeout: 3600 });
    assert.equal(await run("pgrep -x sleep; cat /workspace/note"), `${pid}\nfirst`);
  });
});
