// Machines, agents and guests fail, and requests come at the wrong time: cases 5 to 7, 9, 11, 13, 18, 20, 24, 25 and 28 of
// docs/faults.md.
import assert from "node:assert/strict";
import { copyFile, readdir, readFile, rm, truncate } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { setTimeout } from "node:timers/promises";
import { armFailpoint, type FailpointLabel, failpointLabels } from "#host/failpoints.ts";
import { processesOf } from "#host/kill-by-path.ts";
import { decodeManifest } from "#snapshots/manifest.ts";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import { newSnapshotId, type SandboxId, type SnapshotId } from "@opensandbox/wire/ids.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { machineDirectory, readEntries } from "#machine/journal.ts";
import { leftBehind, nothing } from "../testing/left-behind.ts";
import { startCounting, startCommand, startRequest, startTestHost, type TestHost } from "../testing/test-host.ts";

const never = new AbortController().signal;
let host: TestHost;

before(async () => {
  host = await startTestHost();
});
after(() => host[Symbol.asyncDispose]());

/** A sandbox for one test, which leaves nothing behind. */
async function sandbox(t: TestContext, wishes: Parameters<TestHost["start"]>[1] = {}): Promise<SandboxId> {
  const { id } = await host.start(undefined, wishes);
  t.after(async () => {
    await host.worker.stopSandbox(id);
    assert.deepEqual(await leftBehind(host.dataDirectory), nothing);
  });
  return id;
}

async function checkpoint(id: SandboxId): Promise<SnapshotId> {
  const snapshotId = newSnapshotId();
  await host.worker.captureSandbox(id, { snapshotId, contents: "memory and disks" }, never);
  return snapshotId;
}

async function hibernate(id: SandboxId): Promise<SnapshotId> {
  const snapshotId = newSnapshotId();
  await host.worker.hibernateSandbox(id, snapshotId, never);
  return snapshotId;
}

async function fork(snapshotId: SnapshotId, wishes: Parameters<TestHost["start"]>[1] = {}): Promise<SandboxId> {
  const { id, restoredFrom } = await host.start({ kind: "snapshot", snapshotId, identity: "new" }, wishes);
  assert.equal(restoredFrom, "memory");
  return id;
}

async function wake(id: SandboxId, snapshotId: SnapshotId): Promise<void> {
  const { restoredFrom } = await host.start({ kind: "snapshot", snapshotId, identity: "same" }, { id });
  assert.equal(restoredFrom, "memory");
  await host.worker.removeSnapshot(snapshotId);
}

/** Process id of the only machine. */
async function onlyPid(): Promise<number> {
  const [pid] = await processesOf(join(host.dataDirectory, "machines"));
  return pid ?? assert.fail("no machine runs");
}

/** Checks that a sandbox works: it answers, forks, hibernates and wakes with its content. */
async function works(id: SandboxId): Promise<void> {
  const word = newSnapshotId();
  await host.shell(id, `echo ${word} >/workspace/word; echo ${word} >/dev/shm/word; sync`);
  const snapshotId = await checkpoint(id);
  const copy = await fork(snapshotId);
  assert.equal(await host.shell(copy, "cat /workspace/word /dev/shm/word"), `${word}\n${word}`);
  await host.worker.stopSandbox(copy);
  await host.worker.removeSnapshot(snapshotId);
  await wake(id, await hibernate(id));
  assert.equal(await host.shell(id, "cat /workspace/word /dev/shm/word"), `${word}\n${word}`);
}

const refusedAs = (code: SandboxError["code"]) => (error: unknown) =>
  isSandboxError(error, code) || assert.fail(String(error));

test("5: the end of a killed QEMU is reported, its commands fail as unavailable, and the disks boot again", async (t) => {
  const id = await sandbox(t);
  await host.shell(id, "echo content >/workspace/file; sync");
  const ended = host.worker.waitForEnd(id, never);
  const running = host.shell(id, "sleep 1000");
  const refused = assert.rejects(running, refusedAs("unavailable"));
  process.kill(await onlyPid(), "SIGKILL");
  assert.equal((await ended).reason, "exited");
  await refused;
  await host.worker.powerCycleSandbox(id, never);
  assert.equal(await host.shell(id, "cat /workspace/file"), "content");
});

test("5: a machine that ends while it boots again is booted once more", async (t) => {
  const id = await sandbox(t);
  await host.shell(id, "echo content >/workspace/file; sync");
  const count = (message: string): number => host.logged.filter((line) => line.message === message).length;
  const boots = count("machine booted again on its disks");
  const cycling = host.worker.powerCycleSandbox(id, never);
  await eventually("it boots", () => count("machine booted again on its disks") > boots);
  process.kill(await onlyPid(), "SIGKILL");
  await cycling;
  assert.equal(count("a machine ended while it booted: it boots once more"), 1);
  assert.equal(await host.shell(id, "cat /workspace/file"), "content");
});

test("6: a QEMU that does not answer fails its capture by a deadline and delays no other sandbox", async (t) => {
  const id = await sandbox(t);
  const pid = await onlyPid();
  const other = await sandbox(t);
  const snapshotId = newSnapshotId();
  {
    // The worst step: QEMU carries out the command, and the worker does not learn of it.
    using _ = armFailpoint("switch layers", () => process.kill(pid, "SIGSTOP"));
    const captured = host.worker.captureSandbox(id, { snapshotId, contents: "memory and disks" }, never);
    const refused = assert.rejects(captured, refusedAs("unavailable"));
    assert.equal(await host.shell(other, "echo there"), "there");
    await refused;
  }
  assert.equal(await host.worker.findSnapshot(snapshotId), undefined);
  process.kill(pid, "SIGCONT");
  assert.equal(await host.shell(id, "echo back"), "back");
  await host.worker.stopSandbox(other);
  await works(id);
});

test("7: a killed agent restarts, and a capture during which it was killed is refused", async (t) => {
  const id = await sandbox(t);
  await assert.rejects(host.shell(id, "sudo kill -9 $(pgrep -f 'agent[.]mjs')"), refusedAs("unavailable"));
  assert.equal(await host.shell(id, "echo back"), "back");

  await host.worker.guest(id).files.write("/dev/shm/killer.py", chunks(killerWhileFrozen), {}, never);
  await host.shell(
    id,
    "sudo setsid python3 /dev/shm/killer.py >/dev/null 2>&1 & until [ -e /dev/shm/armed ]; do sleep 0.1; done",
  );
  const snapshotId = newSnapshotId();
  {
    // Time for the killer to notice the freeze, and for the next agent to thaw the disks.
    using _ = armFailpoint("pause", () => setTimeout(10_000));
    const captured = host.worker.captureSandbox(id, { snapshotId, contents: "memory and disks" }, never);
    await assert.rejects(captured, refusedAs("unavailable"));
  }
  assert.equal(await host.worker.findSnapshot(snapshotId), undefined);
  await host.shell(id, "echo written >/workspace/after; sync");
  await works(id);
});

/** Kills the agent when a write has been blocked for a second. */
const killerWhileFrozen = `
import os, signal, threading, time
agent = next(int(p) for p in os.listdir("/proc") if p.isdigit() and b"agent.mjs" in open(f"/proc/{p}/cmdline", "rb").read())
last = time.monotonic()
def beat():
    global last
    while True:
        with open("/workspace/beat", "w") as file: file.write("x")
        last = time.monotonic()
        time.sleep(0.05)
threading.Thread(target=beat, daemon=True).start()
open("/dev/shm/armed", "w").close()
while time.monotonic() - last < 1: time.sleep(0.05)
os.kill(agent, signal.SIGKILL)
`;

async function* chunks(text: string): AsyncGenerator<Uint8Array> {
  yield Buffer.from(text);
}

test("7: a capture is refused when the agent cannot freeze a disk", async (t) => {
  const id = await sandbox(t);
  // A process in the guest has frozen the disk already, so the agent cannot confirm that it has.
  const hold =
    "fsfreeze -f /workspace; touch held; until [ -e go ]; do sleep 0.1; done; fsfreeze -u /workspace; touch gone";
  await host.shell(
    id,
    `cd /dev/shm; sudo setsid sh -c '${hold}' >/dev/null 2>&1 & until [ -e /dev/shm/held ]; do sleep 0.1; done`,
  );
  await assert.rejects(checkpoint(id), refusedAs("wrong_state"));
  await assert.rejects(hibernate(id), refusedAs("wrong_state"));
  await host.shell(id, "touch /dev/shm/go; until [ -e /dev/shm/gone ]; do sleep 0.1; done");
  await host.shell(id, "echo written >/workspace/after; sync");
  await works(id);
});

test("9: a guest that runs out of memory, processes or disk keeps its agent and hibernates", async (t) => {
  const id = await sandbox(t);
  const answers = async (): Promise<void> => assert.equal(await host.shell(id, "echo still"), "still");
  await t.test("memory", async () => {
    const hog = "python3 -c 'b=[]\nwhile True: b.append(b\"x\"*50_000_000)'";
    assert.match(await host.shell(id, `${hog} 2>&1; echo $?`), /137|MemoryError/);
    await answers();
  });
  await t.test("processes", async () => {
    const bomb = [
      "import threading, time",
      "threading.stack_size(32768)",
      "try:",
      " while True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
      "except RuntimeError: print(threading.active_count(), flush=True)",
      "import os; os._exit(0)",
    ].join("\n");
    const threads = Number(await host.shell(id, `python3 -c '${bomb}'`));
    const max = Number(await host.shell(id, "cat /sys/fs/cgroup/sandbox/pids.max"));
    assert.ok(threads > 1000 && threads <= max && max <= 32_768, `${threads} of ${max}`);
    await answers();
  });
  await t.test("disk", async () => {
    await host.shell(id, "fallocate -l $(df --output=avail -B1 /workspace | tail -1) /workspace/fill || true");
    await assert.rejects(host.shell(id, "head -c 50000000 /dev/zero >/workspace/more"), /No space left/);
    await answers();
    await wake(id, await hibernate(id));
    await host.shell(id, "rm /workspace/fill /workspace/more; echo content >/workspace/file");
  });
  await t.test("console", async () => {
    const before = await residentBytes();
    await host.shell(id, "timeout 3 sudo sh -c 'yes >/dev/console' || true");
    await answers();
    assert.ok((await residentBytes()) - before < 64 * 2 ** 20);
  });
  await t.test("its kernel", async () => {
    await host.shell(id, "echo content >/workspace/file; sync");
    const ended = host.worker.waitForEnd(id, never);
    await assert.rejects(host.shell(id, "echo c | sudo tee /proc/sysrq-trigger"), refusedAs("unavailable"));
    assert.match((await ended).detail, /panicked/);
    await host.worker.powerCycleSandbox(id, never);
    assert.equal(await host.shell(id, "cat /workspace/file"), "content");
  });
});

async function residentBytes(): Promise<number> {
  const status = await readFile(`/proc/${await onlyPid()}/status`, "utf8");
  return 1024 * Number(/^VmRSS:\s*(\d+)/m.exec(status)?.[1]);
}

test("11: a capture that fails at any step leaves a running machine and nothing else", async (t) => {
  const id = await sandbox(t);
  await host.shell(id, startCounting);
  let counted = 0;
  const labels: readonly FailpointLabel[] = [...failpointLabels.capture, ...failpointLabels.afterCapture];
  for (const label of labels) {
    using _ = armFailpoint(label);
    const snapshotId = newSnapshotId();
    const message = (error: unknown) => error instanceof Error && error.message === `${label}: made to fail`;
    await assert.rejects(
      host.worker.captureSandbox(id, { snapshotId, contents: "memory and disks" }, never),
      message,
      label,
    );
    // A hibernation neither resumes nor thaws, and does not journal layers.
    if (label !== "resume after capture" && label !== "thaw" && label !== "journal layers") {
      await assert.rejects(host.worker.hibernateSandbox(id, snapshotId, never), message, `hibernate: ${label}`);
    }
    assert.equal(await host.worker.findSnapshot(snapshotId), undefined, label);
    assert.deepEqual(await readdir(join(host.dataDirectory, "snapshots")), [], label);
    // The machine runs if this command ends, which it does when the process in the machine has counted on.
    const further = `until [ "$(cat /dev/shm/count)" -gt ${counted} ]; do sleep 0.1; done; cat /dev/shm/count`;
    counted = Number(await host.shell(id, further));
  }
  await works(id);
});

test("13: a snapshot that is not what was captured is refused, and nothing boots from it", async (t) => {
  const id = await sandbox(t);
  await host.shell(id, "echo content >/workspace/file; sync");
  const [good, bad] = [await checkpoint(id), await checkpoint(id)];
  const directory = join(host.dataDirectory, "snapshots", bad);
  const isRefused = async (what: string, code: SandboxError["code"] = "incompatible"): Promise<void> => {
    await assert.rejects(fork(bad), refusedAs(code), what);
    assert.equal((await leftBehind(host.dataDirectory)).machines.length, 1, what);
  };
  const { memory, files } = decodeManifest(await readFile(join(directory, "manifest.json"), "utf8"));
  const layer = files.disks[0]?.layers.at(-1)?.file ?? "";
  for (const file of ["memory.delta", memory?.devices.file ?? "", layer]) {
    const path = join(directory, file);
    const kept = join(host.dataDirectory, "kept");
    await copyFile(path, kept);
    const { length } = await readFile(path);
    // A new file of that name, because the running machine has the layer too.
    await rm(path);
    await isRefused(`${file} is missing`);
    await copyFile(kept, path);
    await truncate(path, length - 4096);
    await isRefused(`${file} is short`);
    await rm(path);
    await copyFile(kept, path);
    await rm(kept);
  }
  const other = join(host.dataDirectory, "snapshots", good, "manifest.json");
  await rm(join(directory, "manifest.json"));
  await copyFile(other, join(directory, "manifest.json"));
  await isRefused("the manifest of another snapshot");

  if (process.getuid?.() === 0) {
    const other = { organizationId: "org-other" };
    await assert.rejects(fork(good, other), refusedAs("permission_denied"));
    assert.equal((await leftBehind(host.dataDirectory)).machines.length, 1);
    const from = { kind: "snapshot", snapshotId: good, identity: "new", public: true } as const;
    const { id: copy, restoredFrom } = await host.start(from, other);
    assert.equal(restoredFrom, "memory");
    assert.equal(await host.shell(copy, "cat /workspace/file"), "content");
    await host.worker.stopSandbox(copy);
  }
  const copy = await fork(good);
  assert.equal(await host.shell(copy, "cat /workspace/file"), "content");
  await host.worker.stopSandbox(copy);
  for (const snapshotId of [good, bad]) await host.worker.removeSnapshot(snapshotId);
});

test("18: one of several operations at once wins, and the others are refused with the state", async (t) => {
  const id = await sandbox(t);
  await host.shell(id, startCounting);
  const before = await checkpoint(id);
  const snapshotId = newSnapshotId();
  await assert.rejects(
    host.worker.startSandbox(startRequest(undefined, { id }), () => undefined, never),
    refusedAs("already_exists"),
  );

  const hibernating = host.worker.hibernateSandbox(id, snapshotId, never);
  for (const late of [
    host.worker.hibernateSandbox(id, newSnapshotId(), never),
    checkpoint(id),
    host.worker.rebootSandbox(id, never),
    host.worker.powerCycleSandbox(id, never),
  ]) {
    await assert.rejects(
      late,
      (error) => isSandboxError(error, "wrong_state") && error.details.state === "hibernating",
    );
  }
  const copy = await fork(before);
  await hibernating;
  await assert.rejects(host.shell(id, "true"), refusedAs("not_found"));

  const from = { kind: "snapshot", snapshotId, identity: "same" } as const;
  const wakes = await Promise.allSettled([host.start(from, { id }), host.start(from, { id })]);
  assert.deepEqual(wakes.map(({ status }) => status).toSorted(), ["fulfilled", "rejected"]);
  assert.ok(Number(await host.shell(id, "cat /dev/shm/count")) > 0);

  // The sandbox was deleted while it hibernated: it is gone, with or without a complete snapshot.
  const asleep = newSnapshotId();
  const [slept] = await Promise.allSettled([
    host.worker.hibernateSandbox(id, asleep, never),
    host.worker.stopSandbox(id),
  ]);
  assert.equal((await host.worker.findSnapshot(asleep)) !== undefined, slept.status === "fulfilled");
  await host.worker.stopSandbox(copy);
  for (const one of [before, snapshotId, asleep]) await host.worker.removeSnapshot(one);
});

test("11: a start that fails while its machine is brought to its shape leaves nothing", async () => {
  for (const label of failpointLabels.reshape) {
    using _ = armFailpoint(label);
    await assert.rejects(host.start(undefined, larger), { message: `${label}: made to fail` }, label);
    assert.deepEqual(await leftBehind(host.dataDirectory), nothing, label);
  }
});

/** A shape that no template has. */
const larger = { memoryMib: 1152, workspaceMib: 30_720 };

test("20: a caller that aborts in the middle leaves nothing half done", async (t) => {
  for (const label of [...failpointLabels.start, ...failpointLabels.reshape]) {
    const left = new AbortController();
    using _ = armFailpoint(label, () => left.abort());
    const request = startRequest(undefined, larger);
    const started = host.worker.startSandbox(request, () => undefined, left.signal);
    // After the last step the machine is the sandbox already.
    if (label !== "journal sandbox") await assert.rejects(started, label);
    else await started.then(() => host.worker.stopSandbox(request.id));
    assert.deepEqual(await leftBehind(host.dataDirectory), nothing, label);
  }

  const id = await sandbox(t);
  await t.test("a command", async () => {
    const left = new AbortController();
    const command = { argv: ["sh", "-c", "echo on; sleep 4242 & sleep 4242"] } as const;
    const { output, result } = await startCommand(host.worker, id, command, left.signal);
    for await (const part of output) if (part !== "scrollback end") break;
    left.abort();
    await assert.rejects(result);
    await host.shell(id, "while pgrep -f 'sleep 424[2]'; do sleep 0.1; done");
  });
  await t.test("an upload", async () => {
    await host.shell(id, "echo before >/workspace/file; ls -A /workspace >/dev/shm/names");
    const left = new AbortController();
    async function* content(): AsyncGenerator<Uint8Array> {
      yield Buffer.alloc(1_000_000, 1);
      left.abort();
      yield Buffer.alloc(1_000_000, 1);
    }
    await assert.rejects(host.worker.guest(id).files.write("/workspace/file", content(), {}, left.signal));
    assert.equal(await host.shell(id, "cat /workspace/file"), "before");
    await host.shell(id, "until ls -A /workspace | cmp - /dev/shm/names; do sleep 0.1; done");
  });
  await t.test("a capture", async () => {
    const left = new AbortController();
    using _ = armFailpoint("freeze", () => left.abort());
    const request = { snapshotId: newSnapshotId(), contents: "memory and disks" } as const;
    await assert.rejects(host.worker.captureSandbox(id, request, left.signal), refusedAs("canceled"));
  });
  await works(id);
});

test("24: a full host refuses sandboxes, keeps nothing half made, and accepts them again when it has room", async (t) => {
  await assert.rejects(
    host.start(undefined, { memoryMib: 2 ** 20 }),
    (error) =>
      isSandboxError(error, "no_capacity") &&
      error.retryable &&
      error.details.resource === "memory" &&
      error.details.needMib > 2 ** 18,
  );
  {
    using _ = armFailpoint("acquire host resources", () => {
      throw new SandboxError("no_capacity", "all slots are taken", { resource: "network slots", total: 1 });
    });
    const burst = await Promise.allSettled([host.start(), host.start(), host.start()]);
    for (const one of burst) assert.ok(one.status === "rejected" && isSandboxError(one.reason, "no_capacity"));
    assert.deepEqual(await leftBehind(host.dataDirectory), nothing);
  }
  await works(await sandbox(t));
});

test("28: a snapshot that is removed while a fork starts from it stays until the fork has it", async (t) => {
  const id = await sandbox(t);
  await host.shell(id, "echo content >/workspace/file; sync");
  for (const label of ["fill directory", "load memory"] as const) {
    const snapshotId = await checkpoint(id);
    let removed: Promise<void> | undefined;
    using _ = armFailpoint(label, () => {
      removed ??= host.worker.removeSnapshot(snapshotId);
    });
    const copy = await fork(snapshotId);
    await removed;
    assert.equal(await host.worker.findSnapshot(snapshotId), undefined);
    await host.shell(copy, "echo 3 | sudo tee /proc/sys/vm/drop_caches; grep content /workspace/file");
    await host.worker.stopSandbox(copy);
    await assert.rejects(fork(snapshotId), refusedAs("not_found"));
  }
});

test("25: a ready machine that has died becomes no sandbox", async () => {
  await using ready = await startTestHost({ readyMachines: 1 });
  const isReady = Promise.withResolvers<void>();
  using _ = armFailpoint("machine is ready", () => isReady.resolve());
  await ready.start();
  await orAborted(isReady.promise, AbortSignal.timeout(120_000));
  const waiting = (await readEntries(ready.dataDirectory)).filter(({ sandbox }) => sandbox === undefined);
  const [pid = 0] = await processesOf(machineDirectory(ready.dataDirectory, waiting[0]?.machineId ?? ""));
  let claimed = false;
  // The machine dies while it is claimed.
  using __ = armFailpoint("resume", () => {
    if (!claimed) process.kill(pid, "SIGKILL");
    claimed = true;
  });
  const { id } = await ready.start();
  assert.equal(await ready.shell(id, "echo works"), "works");
  assert.ok(ready.logged.some(({ message }) => message.startsWith("a ready machine does not work")));
});
