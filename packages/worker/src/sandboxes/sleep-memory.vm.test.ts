import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { processesOf } from "#host/kill-by-path.ts";
import { newSnapshotId, type SandboxId } from "@opensandbox/wire/ids.ts";
import { startTestHost } from "../testing/test-host.ts";

const never = new AbortController().signal;

/** Commands of ordinary work. They leave memory that the guest has freed, and translated code. */
const work =
  'head -c 150000000 /dev/urandom | sha256sum; python3 -c "import json, ssl; print(sum(len(str(i)) for i in range(200000)))"';

test("a machine that has slept and woken takes no more of the host's memory than before", async (t) => {
  await using host = await startTestHost();
  /** Memory of the machine's process that it shares with no other one and no file, in MiB. */
  const anonymousMib = async (): Promise<number> => {
    const [pid] = await processesOf(join(host.dataDirectory, "machines"));
    const rollup = await readFile(`/proc/${pid ?? assert.fail("no machine runs")}/smaps_rollup`, "utf8");
    return Number(/^Anonymous:\s*(\d+) kB$/m.exec(rollup)?.[1]) / 1024;
  };
  const { id } = await host.start();
  await host.shell(id, work);
  let before = await anonymousMib();
  for (let sleeps = 1; sleeps <= 2; sleeps += 1) {
    const snapshotId = newSnapshotId();
    await host.worker.hibernateSandbox(id, snapshotId, never);
    await woken(id, snapshotId);
    await host.worker.removeSnapshot(snapshotId);
    await host.shell(id, "true");
    const after = await anonymousMib();
    t.diagnostic(`${before.toFixed(0)} MiB, then ${after.toFixed(0)} MiB`);
    assert.ok(after <= before, `${before} MiB before the sleep, ${after} MiB after it`);
    await host.shell(id, work);
    before = await anonymousMib();
  }

  async function woken(sandbox: SandboxId, snapshotId: ReturnType<typeof newSnapshotId>): Promise<void> {
    const from = { kind: "snapshot", snapshotId, identity: "same" } as const;
    const { restoredFrom } = await host.start(from, { id: sandbox });
    assert.equal(restoredFrom, "memory");
  }
});
