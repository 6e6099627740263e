import assert from "node:assert/strict";
import { chmod, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { examineQemu } from "../../packages/worker/src/hypervisor/qemu/examine-qemu.ts";
import { machineProcesses } from "./machine-processes.ts";
import { makeFetchPatient } from "./patient-fetch.ts";
import { endServer, type SpawnedServer, spawnServerOn } from "./spawn-server.ts";

const program = "qemu-system-x86_64";
const { accelerator, reason } = await examineQemu({ program, wanted: "auto" });
const skip = accelerator === "kvm" ? false : `KVM does not work here (${reason}); ./test kvm all emulates a host`;

/** Every x86-64 processor has its features. */
const oldModel = "qemu64";

suite("processor models under KVM", { skip }, () => {
  const stack = new AsyncDisposableStack();
  before(makeFetchPatient);
  after(() => stack.disposeAsync());

  test("a model that the processor lacks features of is refused with QEMU's words, and so is an unknown one", async () => {
    const choose = (cpuModel: string) => examineQemu({ program, wanted: "kvm", cpuModel });
    assert.equal((await choose(oldModel)).accelerator, "kvm");
    await assert.rejects(choose("no-such-model"), /KVM does not work here: .*unable to find CPU model 'no-such-model'/);
    // No processor has the features of both vendors' newest models.
    const outcomes = await Promise.allSettled(["SapphireRapids", "EPYC-Genoa"].map(choose));
    const refusals = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [String(outcome.reason)] : []));
    assert.ok(refusals.length > 0);
    for (const refusal of refusals)
      assert.match(refusal, /KVM does not work here: .*(doesn't support|requested feature)/);
  });

  test("a snapshot of a model wakes under that model, and boots its disks under another, which the reply names", async () => {
    const directory = await mkdtemp(join(tmpdir(), "osb-models-"));
    await chmod(directory, 0o711);
    stack.defer(() => rm(directory, { recursive: true, force: true }));
    stack.defer(async () => {
      for (const pid of await machineProcesses(directory)) process.kill(pid, "SIGKILL");
    });
    const apiKey = "key-of-the-test";
    const start = async (model: string): Promise<SpawnedServer> => {
      const server = await spawnServerOn(directory, {
        stays: true,
        env: {
          OPENSANDBOX_ACCEL: "kvm",
          OPENSANDBOX_API_KEY: apiKey,
          OPENSANDBOX_CPU_MODEL: model,
          OPENSANDBOX_DEFAULT_SANDBOX_MEMORY_MB: "512",
          OPENSANDBOX_READY_MACHINES: "0",
        },
      });
      stack.defer(async () => void (await endServer(server.process, "SIGKILL")));
      return server;
    };
    const get = async ({ url }: SpawnedServer, id: string): Promise<Record<string, unknown>> => {
      const response = await fetch(`${url}/api/sandboxes/${id}`, { headers: { "X-API-Key": apiKey } });
      return (await response.json()) as Record<string, unknown>;
    };
    const run = async (sandbox: Sandbox, command: string): Promise<string> => {
      const { exitCode, stdout, stderr } = await sandbox.commands.run(command, { timeout: 300 });
      assert.equal(exitCode, 0, stderr);
      return stdout.trimEnd();
    };

    const first = await start(oldModel);
    let sandbox = await Sandbox.create({ apiUrl: first.url, apiKey, template: "minimal", timeout: 7200 });
    assert.match(await run(sandbox, "grep -m1 'model name' /proc/cpuinfo"), /QEMU Virtual CPU/);
    const [machine = assert.fail("no machine runs")] = await machineProcesses(directory);
    assert.match(await readFile(`/proc/${machine}/cmdline`, "utf8"), /qemu64,enforce,-vmx,-svm/);
    await run(sandbox, "echo kept > /workspace/note");
    assert.equal(await endServer(first.process, "SIGTERM"), 0);

    const second = await start(oldModel);
    sandbox = await Sandbox.connect(sandbox.sandboxId, { apiUrl: second.url, apiKey });
    assert.equal(await run(sandbox, "cat /workspace/note"), "kept");
    assert.equal((await get(second, sandbox.sandboxId))["restoredFrom"], "memory");
    assert.equal(await endServer(second.process, "SIGTERM"), 0);

    const other = await start("host");
    sandbox = await Sandbox.connect(sandbox.sandboxId, { apiUrl: other.url, apiKey });
    assert.equal(await run(sandbox, "cat /workspace/note"), "kept");
    const { restoredFrom, restoredBecause } = await get(other, sandbox.sandboxId);
    assert.equal(restoredFrom, "disk");
    assert.match(
      String(restoredBecause),
      /cannot restore the snapshot's memory: its guest has the processor model qemu64, and guests of this host have host\. A server with OPENSANDBOX_CPU_MODEL=qemu64 restores it/,
    );
    await sandbox.kill();
  });
});
