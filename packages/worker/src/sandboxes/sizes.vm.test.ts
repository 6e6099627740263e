// Sizes of sandboxes in real machines: memory at the start, and memory, processor time and processes while they run.
import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { newSnapshotId, type SandboxId } from "@opensandbox/wire/ids.ts";
import { startTestHost } from "../testing/test-host.ts";

const never = new AbortController().signal;
/** Prints how many threads a process can have. */
const bomb = [
  "import threading, time, os",
  "threading.stack_size(32768)",
  "try:",
  " while True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
  "except RuntimeError: print(threading.active_count(), flush=True)",
  "os._exit(0)",
].join("\n");
const cgroup = "/sys/fs/cgroup/sandbox";

test("sandboxes of every memory size start from one template, with that memory at their first command", async (t) => {
  const templatesDirectory = await mkdtemp(join(tmpdir(), "osb-templates-"));
  t.after(() => rm(templatesDirectory, { recursive: true }));
  await using host = await startTestHost({ templatesDirectory });
  const facts = `awk '/^MemTotal/ { print $2 }' /proc/meminfo; cat ${cgroup}/memory.max`;
  for (const memoryMib of [1024, 512, 2048, 1152]) {
    const { id, restoredFrom } = await host.start(undefined, { memoryMib });
    assert.equal(restoredFrom, "memory");
    const [totalKib = 0, limitBytes = 0] = (await host.shell(id, facts)).split("\n").map(Number);
    const machineMib = Math.max(1024, memoryMib);
    assert.ok(
      totalKib / 1024 > 0.9 * machineMib && totalKib / 1024 <= machineMib,
      `${totalKib} KiB of ${memoryMib} MiB`,
    );
    const limitMib = limitBytes / 2 ** 20;
    assert.ok(limitMib <= memoryMib && limitMib > 0.8 * memoryMib, `commands have ${limitMib} of ${memoryMib} MiB`);
    await host.worker.stopSandbox(id);
  }
  const templates = (await readdir(templatesDirectory)).filter((name) => /^[0-9a-f]{32}$/.test(name));
  assert.equal(templates.length, 1);
});

test("sandboxes of every number of vCPUs start from one template, and have those processors at their first command", async (t) => {
  const templatesDirectory = await mkdtemp(join(tmpdir(), "osb-templates-"));
  t.after(() => rm(templatesDirectory, { recursive: true }));
  await using host = await startTestHost({ templatesDirectory });
  const processors = async (id: SandboxId) => await host.shell(id, "nproc");
  for (const vcpus of [1, 3, 8]) {
    const { id, restoredFrom } = await host.start(undefined, { vcpus });
    assert.deepEqual([restoredFrom, await processors(id)], ["memory", String(vcpus)]);
    await host.worker.stopSandbox(id);
  }
  const templates = (await readdir(templatesDirectory)).filter((name) => /^[0-9a-f]{32}$/.test(name));
  assert.equal(templates.length, 1);

  const { id } = await host.start();
  const scale = (cpuPercent: number) => host.worker.scaleSandbox(id, { memoryMib: 1024, cpuPercent }, never);
  for (const cpuPercent of [200, 400, 800, 100]) {
    const since = performance.now();
    assert.deepEqual(await scale(cpuPercent), { done: true });
    t.diagnostic(`${cpuPercent} % after ${Math.round(performance.now() - since)} ms`);
    assert.equal(await processors(id), String(cpuPercent / 100));
    assert.equal(await host.shell(id, `cat ${cgroup}/cpu.max`), `${cpuPercent * 1000} 100000`);
  }
  await assert.rejects(scale(900), /cpuPercent must be from 100 to 800/);
  await scale(200);
  const snapshotId = newSnapshotId();
  await host.worker.hibernateSandbox(id, snapshotId, never);
  const from = { kind: "snapshot", snapshotId, identity: "same" } as const;
  const woken = await host.start(from, { id, cpuPercent: 200 });
  assert.deepEqual([woken.restoredFrom, await processors(id)], ["memory", "2"]);
  await host.reopen();
  await host.worker.powerCycleSandbox(id, never);
  assert.equal(await processors(id), "2");
});

test("limits hold commands that run already, and stay over a restart of the agent, adoption, hibernation and reboot", async () => {
  await using host = await startTestHost();
  const { id } = await host.start(undefined, { vcpus: 2 });
  const limits = { memoryMib: 512, cpuPercent: 150, maxPids: 100 };
  await host.shell(id, "setsid sleep 100000 >/dev/null 2>&1 &");
  assert.deepEqual(await host.worker.scaleSandbox(id, limits, never), { done: true });
  const are = async (one: SandboxId, when: string, { memoryMib, cpuPercent, maxPids } = limits) => {
    const found = (await host.shell(one, `cd ${cgroup}; cat memory.max cpu.max pids.max`)).split("\n");
    assert.deepEqual(found.slice(1), [`${cpuPercent * 1000} 100000`, String(maxPids)], when);
    const mib = Number(found[0]) / 2 ** 20;
    assert.ok(mib <= memoryMib && mib > 0.7 * memoryMib, `${mib} MiB ${when}`);
  };
  await are(id, "at once");
  const hog = `python3 -c 'b = [bytearray(60_000_000) for _ in range(11)]'; echo $?`;
  assert.match(await host.shell(id, hog), /137/, "a command cannot use 660 MB");
  const threads = Number(await host.shell(id, `python3 -c '${bomb}'`));
  assert.ok(threads > 50 && threads <= 100, `${threads} threads`);

  await assert.rejects(host.shell(id, "sudo kill -9 $(pgrep -f 'agent[.]mjs')"));
  await are(id, "after a restart of the agent");
  await host.reopen();
  assert.deepEqual(
    (await host.worker.listSandboxes()).map(({ memoryMib }) => memoryMib),
    [512],
  );
  const snapshotId = newSnapshotId();
  await host.worker.captureSandbox(id, { snapshotId, contents: "memory and disks" }, never);
  const from = { kind: "snapshot", snapshotId, identity: "new" } as const;
  const fork = await host.start(from, { vcpus: 2, memoryMib: 512 });
  assert.equal(fork.restoredFrom, "memory");
  const found = (await host.shell(fork.id, `cd ${cgroup}; cat cpu.max pids.max`)).split("\n");
  assert.equal(found[0], "max 100000", "a fork has limits of its own");
  assert.ok(Number(found[1]) >= 4096, `a fork has limits of its own: ${found[1]} processes`);
  await host.worker.stopSandbox(fork.id);
  await host.worker.removeSnapshot(snapshotId);

  const asleep = newSnapshotId();
  await host.worker.hibernateSandbox(id, asleep, never);
  const woken = await host.start(
    { kind: "snapshot", snapshotId: asleep, identity: "same" },
    { id, vcpus: 2, ...limits },
  );
  assert.equal(woken.restoredFrom, "memory");
  await host.worker.removeSnapshot(asleep);
  await host.shell(id, "pgrep -x sleep");
  await are(id, "after hibernation");

  const more = { memoryMib: 1280, cpuPercent: 200, maxPids: 500 };
  assert.deepEqual(await host.worker.scaleSandbox(id, more, never), { done: true });
  await are(id, "after more was given", more);
  assert.deepEqual(await host.worker.scaleSandbox(id, { memoryMib: 1024 }, never), { done: true });
  await are(id, "after memory alone has changed", { ...more, memoryMib: 1024 });
  await host.worker.rebootSandbox(id, never);
  await are(id, "after a reboot", { ...more, memoryMib: 1024 });
});

test("memory that commands use is not limited away", async () => {
  await using host = await startTestHost();
  const { id } = await host.start();
  await host.shell(
    id,
    'setsid python3 -c \'import time; held = b"x" * 500_000_000; open("/dev/shm/held", "w"); time.sleep(600)\' ' +
      ">/dev/null 2>&1 & until [ -e /dev/shm/held ]; do sleep 0.1; done",
  );
  const before = await host.shell(id, `cat ${cgroup}/memory.max`);
  assert.deepEqual(await host.worker.scaleSandbox(id, { memoryMib: 512 }, never), {
    done: false,
    because: "its commands use too much of its 1024 MiB",
  });
  assert.equal(await host.shell(id, `pgrep -x python3 >/dev/null; cat ${cgroup}/memory.max`), before);
  await host.shell(id, "pkill python3; while pgrep python3; do sleep 0.1; done");
  assert.deepEqual(await host.worker.scaleSandbox(id, { memoryMib: 512 }, never), { done: true });
});
