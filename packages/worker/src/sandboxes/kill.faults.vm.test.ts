// A worker is killed at every step, and the next one cleans up or continues: cases 1 to 4 and 22 of docs/faults.md.
import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type FailpointLabel, failpointLabels } from "#host/failpoints.ts";
import { killProcessesOf } from "#host/kill-by-path.ts";
import { slotsDirectory } from "#host/slots.ts";
import { removeSlotNetworks } from "#network/slot-network.ts";
import { newSnapshotId, type SandboxId, type SnapshotId } from "@opensandbox/wire/ids.ts";
import { leftBehind, nothing } from "../testing/left-behind.ts";
import { type SpawnedWorker, spawnWorker, workerDied } from "../testing/spawn-worker.ts";
import { makeDataDirectory, startCounting, startRequest } from "../testing/test-host.ts";

let dataDirectory: string;
let worker: SpawnedWorker;

before(async () => {
  dataDirectory = await makeDataDirectory();
  worker = await spawnWorker({ dataDirectory });
});
after(async () => {
  await worker[Symbol.asyncDispose]();
  await killProcessesOf(join(dataDirectory, "machines"));
  await rm(dataDirectory, { recursive: true });
});

/** Kills the worker at the step `label` of `act`, and opens the next worker. */
async function killedAt(label: FailpointLabel, act: () => Promise<unknown>): Promise<void> {
  await worker.call("arm", `${label}=exit`);
  await assert.rejects(act(), new Error(workerDied), label);
  await worker.ended;
  worker = await spawnWorker({ dataDirectory });
}

async function start(...args: Parameters<typeof startRequest>): Promise<SandboxId> {
  const request = startRequest(...args);
  await worker.call("start", request);
  return request.id;
}

function fork(snapshotId: SnapshotId): Promise<SandboxId> {
  return start({ kind: "snapshot", snapshotId, identity: "new" });
}

/** A sandbox with a process that counts. It writes a file before each fault, and checks all of them later. */
class Witness {
  readonly id: SandboxId;
  #counted = 0;
  #written = 0;

  constructor(id: SandboxId) {
    this.id = id;
  }

  static async start(): Promise<Witness> {
    const id = await start();
    await worker.call("shell", id, startCounting);
    return new Witness(id);
  }

  /** Writes a file; the guest acknowledges it. */
  async write(): Promise<void> {
    this.#written += 1;
    const name = `/workspace/${this.#written}`;
    await worker.call("shell", this.id, `head -c 100000 /dev/urandom >${name}; sha256sum ${name} >>sums; sync`);
  }

  /** Checks that every acknowledged file is whole and that the file systems report no error. */
  async check(when: string, id = this.id): Promise<void> {
    const read = `echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum -c --quiet sums; wc -l <sums`;
    assert.equal((await worker.call("shell", id, read)).split("\n").at(-1), String(this.#written), when);
    const complaints = "sudo dmesg | grep -iE 'ext4.*(error|warning|corrupt)|I/O error' || true";
    assert.equal(await worker.call("shell", id, complaints), "", when);
  }

  /** Checks that the process has counted further since the last check. */
  async checkCount(when: string): Promise<void> {
    const counted = Number(await worker.call("shell", this.id, "cat /dev/shm/count"));
    assert.ok(counted > this.#counted, when);
    this.#counted = counted;
  }
}

const running = (id: SandboxId) => ({ id, generation: 1, memoryMib: 1024, running: true });

test("1: the next worker removes everything that a worker killed at any step of a start has left", async () => {
  await worker.call("stop", await start());
  for (const label of [...failpointLabels.start, ...failpointLabels.reshape]) {
    await killedAt(label, () => start(undefined, { memoryMib: 1152, workspaceMib: 30_720 }));
    assert.deepEqual(worker.adopted, [], label);
    assert.deepEqual(await leftBehind(dataDirectory), nothing, label);
  }
});

test("2 and 4: sandboxes keep running when their worker is killed, at rest or at any step of a checkpoint", async (t) => {
  const witness = await Witness.start();
  await t.test("at rest, and again while the next worker adopts", async () => {
    await witness.write();
    await worker.kill();
    for (const label of failpointLabels.adopt) {
      await assert.rejects(spawnWorker({ dataDirectory }, `${label}=exit`), new Error(workerDied), label);
    }
    worker = await spawnWorker({ dataDirectory });
    assert.deepEqual(worker.adopted, [running(witness.id)]);
    await witness.check("adopted");
    await witness.checkCount("adopted");
  });

  for (const label of [...failpointLabels.capture, ...failpointLabels.afterCapture]) {
    await t.test(label, async () => {
      await witness.write();
      const snapshotId = newSnapshotId();
      await killedAt(label, () => worker.call("capture", witness.id, snapshotId));
      assert.deepEqual(worker.adopted, [running(witness.id)]);
      await witness.checkCount(label);
      const found = await worker.call("findSnapshot", snapshotId);
      // A snapshot is published whole or not at all.
      assert.equal(found !== undefined, label === "flush published snapshot");
      assert.deepEqual((await leftBehind(dataDirectory)).unfinished, []);
      if (found) await worker.call("removeSnapshot", snapshotId);
    });
  }

  await t.test("a checkpoint after all of these kills holds everything", async () => {
    await witness.check("after the checkpoints that failed");
    const snapshotId = newSnapshotId();
    await worker.call("capture", witness.id, snapshotId);
    const copy = await fork(snapshotId);
    await witness.check("in a fork", copy);
    await worker.call("stop", copy);

    for (const label of failpointLabels.start) {
      await killedAt(label, () => fork(snapshotId));
      assert.deepEqual(worker.adopted, [running(witness.id)], `fork, ${label}`);
      assert.equal((await leftBehind(dataDirectory)).machines.length, 1, `fork, ${label}`);
    }
    await witness.checkCount("after the forks that failed");
    await worker.call("removeSnapshot", snapshotId);
  });

  await t.test("22: disks boot after the host died right after a switch of layers", async () => {
    await witness.write();
    const asleep = await Witness.start();
    await asleep.write();
    const hibernated = newSnapshotId();
    await worker.call("hibernate", asleep.id, hibernated);
    await worker.call("arm", "resume after capture=exit");
    await assert.rejects(worker.call("capture", witness.id, newSnapshotId()), new Error(workerDied));
    await worker.ended;
    await loseHost();

    worker = await spawnWorker({ dataDirectory });
    assert.deepEqual(worker.adopted, [{ ...running(witness.id), running: false }]);
    await worker.call("powerCycle", witness.id);
    await witness.check("booted again");
    const from = { kind: "snapshot", snapshotId: hibernated, identity: "same" } as const;
    const woken = await worker.call("start", startRequest(from, { id: asleep.id }));
    assert.equal(woken.restoredFrom, "memory");
    await asleep.check("woken");
    await asleep.checkCount("woken");
    await worker.call("stop", asleep.id);
    await worker.call("removeSnapshot", hibernated);
  });
  await worker.call("stop", witness.id);
});

test("3 and 4: a sandbox runs or sleeps, and is whole, when its worker is killed at any step of hibernation or wake", async (t) => {
  const witness = await Witness.start();

  async function wake(snapshotId: SnapshotId): Promise<void> {
    const from = { kind: "snapshot", snapshotId, identity: "same" } as const;
    const { restoredFrom } = await worker.call("start", startRequest(from, { id: witness.id }));
    assert.equal(restoredFrom, "memory");
  }

  // A hibernation does not resume the machine.
  const steps = failpointLabels.capture.filter((label) => label !== "resume after capture" && label !== "thaw");
  for (const label of [...steps, ...failpointLabels.hibernate]) {
    await t.test(label, async () => {
      await witness.write();
      const snapshotId = newSnapshotId();
      await killedAt(label, () => worker.call("hibernate", witness.id, snapshotId));
      const found = await worker.call("findSnapshot", snapshotId);
      if (found) {
        assert.deepEqual(worker.adopted, []);
        assert.deepEqual(await leftBehind(dataDirectory), nothing);
        await wake(snapshotId);
        await worker.call("removeSnapshot", snapshotId);
      } else {
        assert.deepEqual(worker.adopted, [running(witness.id)]);
      }
      await witness.checkCount(label);
    });
  }
  await witness.check("after the hibernations");

  await t.test("wake", async () => {
    const snapshotId = newSnapshotId();
    await worker.call("hibernate", witness.id, snapshotId);
    for (const label of failpointLabels.start) {
      await killedAt(label, () => wake(snapshotId));
      assert.deepEqual(worker.adopted, [], label);
      assert.deepEqual(await leftBehind(dataDirectory), nothing, label);
    }
    await wake(snapshotId);
    await witness.check("woken at last");
    await witness.checkCount("woken at last");
    await worker.call("removeSnapshot", snapshotId);
  });
  await worker.call("stop", witness.id);
  assert.deepEqual(await leftBehind(dataDirectory), nothing);
});

/** Leaves what a reboot of the host leaves of machines: their files. */
async function loseHost(): Promise<void> {
  await killProcessesOf(join(dataDirectory, "machines"));
  const { slots } = await leftBehind(dataDirectory);
  await removeSlotNetworks(slots.map(Number));
  for (const slot of slots) await rm(join(slotsDirectory, slot));
}
