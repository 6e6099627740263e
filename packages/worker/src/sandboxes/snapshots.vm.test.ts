import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { open, readdir, readFile, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { processesOf } from "#host/kill-by-path.ts";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { newSnapshotId, type SandboxId, type SnapshotId } from "@opensandbox/wire/ids.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { decodeChunks, decodeRuns, footerBytes, pageBytes, readFooter } from "#snapshots/delta.ts";
import { decodeManifest, encodeManifest } from "#snapshots/manifest.ts";
import { startTestHost, type TestHost } from "../testing/test-host.ts";

const never = new AbortController().signal;
let host: TestHost;

before(async () => {
  host = await startTestHost();
});
after(() => host[Symbol.asyncDispose]());

async function checkpoint(id: SandboxId): Promise<SnapshotId> {
  const snapshotId = newSnapshotId();
  await host.worker.captureSandbox(id, { snapshotId, contents: "memory and disks" }, never);
  return snapshotId;
}

/** Hibernates and wakes; returns the source of the wake. */
async function sleepAndWake(id: SandboxId, envs: Readonly<Record<string, string>> = {}): Promise<string> {
  const snapshotId = newSnapshotId();
  await host.worker.hibernateSandbox(id, snapshotId, never);
  const { restoredFrom } = await host.start({ kind: "snapshot", snapshotId, identity: "same" }, { id, envs });
  await host.worker.removeSnapshot(snapshotId);
  return restoredFrom;
}

/** Starts a process that counts without end; {@link counted} reads its count. */
const startCounting =
  "cd /dev/shm; setsid sh -c 'while :; do i=$((i+1)); echo $i >new; mv new count; sleep 0.1; done' >/dev/null 2>&1 & " +
  "until [ -e count ]; do sleep 0.1; done; cd;";
const counted = "cat /dev/shm/count";

const installHooks =
  "for event in before-hibernate after-wake after-fork; do d=/etc/opensandbox/hooks/$event.d; sudo mkdir -p $d; " +
  "printf '#!/bin/sh\\necho $OPENSANDBOX_EVENT $(id -un) >>/workspace/hooks\\n' | sudo tee $d/note >/dev/null; " +
  "sudo chmod +x $d/note; done";

test("a sandbox lives through checkpoint, fork, hibernation and wake", async (t) => {
  const { id, restoredFrom } = await host.start(undefined, { envs: { NAME: "kept" } });
  assert.equal(restoredFrom, "memory");
  await host.shell(id, `${startCounting} head -c 20000000 /dev/urandom >/workspace/big; sha256sum /workspace/big >sum`);
  await host.shell(id, installHooks);
  const before = Number(await host.shell(id, counted));

  const snapshotId = await checkpoint(id);
  await host.shell(id, "echo later >/workspace/later");
  assert.equal(await sleepAndWake(id, { NAME: "kept" }), "memory");

  await t.test("processes, files and environment survive, and the clock is right", async () => {
    assert.ok(Number(await host.shell(id, counted)) > before);
    await host.shell(id, "echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum -c sum; grep later /workspace/later");
    assert.equal(await host.shell(id, "echo $NAME"), "kept");
    const skew = Math.abs(Number(await host.shell(id, "date +%s%3N")) - Date.now());
    // The difference includes the duration of the command.
    assert.ok(skew < 5000, `${skew} ms`);
  });

  const fork = await host.start({ kind: "snapshot", snapshotId, identity: "new" }, { envs: { NAME: "fork" } });
  await t.test("the guest's hooks have run, as root", async () => {
    assert.equal(await host.shell(id, "cat /workspace/hooks"), "before-hibernate root\nafter-wake root");
    const fork = await host.start({ kind: "snapshot", snapshotId, identity: "new" });
    assert.equal(await host.shell(fork.id, "cat /workspace/hooks"), "after-fork root");
    await host.worker.stopSandbox(fork.id);
  });

  await t.test("a fork continues from the instant of the checkpoint, with an environment of its own", async () => {
    assert.equal(fork.restoredFrom, "memory");
    assert.ok(Number(await host.shell(fork.id, counted)) > before);
    await host.shell(
      fork.id,
      "echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum -c sum; test ! -e /workspace/later",
    );
    assert.equal(await host.shell(fork.id, "echo $NAME"), "fork");
  });

  await t.test("forks of one checkpoint have their own random numbers and machine ids", async () => {
    const again = await host.start({ kind: "snapshot", snapshotId, identity: "new" });
    const facts =
      "cat /proc/sys/kernel/random/uuid /etc/machine-id; python3 -c 'import uuid, os; print(uuid.uuid4(), os.urandom(8).hex())'";
    const seen = [];
    for (const one of [id, fork.id, again.id]) seen.push(...(await host.shell(one, facts)).split("\n"));
    assert.equal(new Set(seen).size, seen.length, seen.join("\n"));
    await host.worker.stopSandbox(again.id);
  });

  await t.test("a fork outlives its checkpoint", async () => {
    await host.worker.removeSnapshot(snapshotId);
    await host.shell(fork.id, "echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum -c sum");
    assert.equal(await sleepAndWake(fork.id), "memory");
    await host.shell(fork.id, "sha256sum -c sum");
  });

  const skip = process.getuid?.() === 0 ? false : "a worker that is not root gives its machines no users";
  await t.test(
    "a machine's process makes no file in its directory, and enters no other machine's",
    { skip },
    async () => {
      // Another organization, a fork and the original: each with a process of its own.
      const other = await host.start(undefined, { organizationId: "org-other" });
      const root = join(host.dataDirectory, "machines");
      const machines = (await readdir(root)).map((name) => join(root, name));
      assert.equal(machines.length, 3);
      for (const machine of machines) {
        const [pid = 0] = await processesOf(machine);
        const status = await readFile(`/proc/${pid}/status`, "utf8");
        const [, uid = "", gid = ""] = /^Uid:\s+(\d+).*\nGid:\s+(\d+)/m.exec(status) ?? [];
        const groups = /^Groups:\s*(.*?)\s*$/m.exec(status)?.[1]?.split(" ") ?? [];
        assert.ok(Number(uid) >= 1_900_000_000, status);
        const as = [`--reuid=${uid}`, `--regid=${gid}`, `--groups=${groups.join()}`, "--", "sh", "-c"];
        const others = machines.filter((one) => one !== machine);
        const script = [
          `test -r '${machine}/kernel' || exit 10`,
          `ln -s /etc/shadow '${machine}/new' && exit 11`,
          `mv '${machine}/qmp.sock' '${machine}/moved' && exit 12`,
          `ls '${machine}' && exit 13`,
          ...others.map((one) => `test -e '${one}/kernel' && exit 14`),
          "exit 0",
        ];
        await promisify(execFile)("setpriv", [...as, script.join("\n")]);
      }
      await host.worker.stopSandbox(other.id);
    },
  );

  await t.test("the file systems are clean", async () => {
    const complaints = "sudo dmesg | grep -iE 'ext4.*(error|warning|corrupt)|I/O error|hung task' || true";
    for (const one of [id, fork.id]) assert.equal(await host.shell(one, complaints), "");
  });
  await host.worker.stopSandbox(id);
  await host.worker.stopSandbox(fork.id);
});

test("a guest receives memory while it runs, keeps it over hibernation and in forks, and returns it", async (t) => {
  const { id } = await host.start();
  const total = async (one: SandboxId) =>
    Number(await host.shell(one, "awk '/^MemTotal/ { print $2 }' /proc/meminfo")) / 1024;
  const scale = (memoryMib: number) => host.worker.scaleSandbox(id, { memoryMib }, never);
  const [began, basePages] = [await total(id), (1024 * 2 ** 20) / pageBytes];

  await assert.rejects(scale(8320), (error) => isSandboxError(error, "invalid_argument"));
  assert.deepEqual(await scale(2048), { done: true });
  assert.ok((await total(id)) - began > 1000, "the guest sees the added memory");
  // Commands use the hotplugged memory first.
  await host.shell(id, `${startCounting} head -c 50000000 /dev/urandom >/dev/shm/big; sha256sum /dev/shm/big >sum`);
  const before = Number(await host.shell(id, counted));

  await t.test("snapshots hold it, and sandboxes restored from them have it", async () => {
    const snapshotId = await checkpoint(id);
    const { directory, memory, pages } = await readSnapshot(snapshotId);
    assert.equal(memory.growthMib, 1024, directory);
    assert.ok(
      pages.some(({ first, count }) => first + count > basePages),
      "pages beyond the first memory",
    );
    const fork = await host.start({ kind: "snapshot", snapshotId, identity: "new" }, { memoryMib: 2048 });
    assert.equal(fork.restoredFrom, "memory");
    await host.shell(fork.id, "sha256sum -c sum");
    assert.ok((await total(fork.id)) - began > 1000);
    await host.worker.stopSandbox(fork.id);
    await host.worker.removeSnapshot(snapshotId);
  });

  await t.test("it survives adoption by another worker, and hibernation", async () => {
    await host.reopen();
    assert.deepEqual(
      (await host.worker.listSandboxes()).map(({ memoryMib }) => memoryMib),
      [2048],
    );
    const snapshotId = newSnapshotId();
    await host.worker.hibernateSandbox(id, snapshotId, never);
    const { restoredFrom } = await host.start(
      { kind: "snapshot", snapshotId, identity: "same" },
      { id, memoryMib: 2048 },
    );
    assert.equal(restoredFrom, "memory");
    await host.worker.removeSnapshot(snapshotId);
    assert.ok(Number(await host.shell(id, counted)) > before);
    await host.shell(id, "sha256sum -c sum");
  });

  await t.test("the guest keeps memory that its commands need, and returns the rest", async () => {
    await host.shell(
      id,
      'setsid python3 -c \'import time; held = b"x" * 1100_000_000; open("/dev/shm/held", "w"); time.sleep(600)\' ' +
        ">/dev/null 2>&1 & until [ -e /dev/shm/held ]; do sleep 0.1; done",
    );
    const { done, because } = await scale(1024);
    assert.deepEqual([done, because], [false, "its commands use too much of its 2048 MiB"]);
    assert.ok((await total(id)) - began > 1000, "nothing has changed");
    await host.shell(id, "pkill python3; while pgrep python3; do sleep 0.1; done");
    assert.deepEqual(await scale(1152), { done: true });
    assert.ok(Math.abs((await total(id)) - began - 128) < 16);
    await host.shell(id, "sha256sum -c sum");
  });

  await t.test("a machine that boots again has the added memory from the start", async () => {
    await host.worker.powerCycleSandbox(id, never);
    const booted = await total(id);
    assert.ok(booted - began > 100 && booted - began < 200, `${booted} MiB`);
  });
  await host.worker.stopSandbox(id);

  async function readSnapshot(snapshotId: SnapshotId) {
    const directory = join(host.dataDirectory, "snapshots", snapshotId);
    const { memory } = decodeManifest(await readFile(join(directory, "manifest.json"), "utf8"));
    const delta = await readFile(join(directory, memory?.delta?.file ?? ""));
    const footer = readFooter(delta.subarray(-footerBytes), delta.length);
    const tail = delta.subarray(footer.pagesEnd);
    const pages =
      footer.version === 1
        ? decodeRuns(tail.subarray(0, -footerBytes), 8 * basePages)
        : decodeChunks(tail, footer, 8 * basePages).flatMap(({ runs }) => runs);
    return { directory, memory: memory!, pages };
  }
});

test("long chains of layers are merged, and the content stays", async () => {
  const { id } = await host.start();
  await host.shell(id, "head -c 3000000 /dev/urandom >/workspace/first; sha256sum /workspace/first >sum");
  let kept: SnapshotId | undefined;
  for (let round = 0; round < 18; round += 1) {
    await host.shell(id, `head -c 300000 /dev/urandom >/workspace/${round}; sha256sum /workspace/${round} >>sum`);
    const snapshotId = await checkpoint(id);
    if (round === 7) kept = snapshotId;
    else await host.worker.removeSnapshot(snapshotId);
  }
  // The kept checkpoint shares the template's layer and eight more. Over them lie the layers of the rounds after the
  // last merge.
  await layersAtMost(14);
  await host.shell(id, "echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum -c sum");
  await host.worker.removeSnapshot(kept!);
  // The template's layer stays, and up to eight others may: with one more they are merged.
  await layersAtMost(10);
  await host.worker.removeSnapshot(await checkpoint(id));
  await layersAtMost(3);
  await host.shell(id, "echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum -c sum");
  assert.equal(await sleepAndWake(id), "memory");
  await host.shell(id, "echo 3 | sudo tee /proc/sys/vm/drop_caches; sha256sum -c sum");
  await host.worker.stopSandbox(id);

  /** Polls for the result of a merge, which runs in the background and does not report its end. */
  async function layersAtMost(max: number): Promise<void> {
    const [machine = ""] = await readdir(join(host.dataDirectory, "machines"));
    const layers = async (): Promise<readonly string[]> => {
      const files = await readdir(join(host.dataDirectory, "machines", machine));
      return files.filter((file) => file.endsWith(".qcow2"));
    };
    const isShort = async (disk: string): Promise<boolean> =>
      (await layers()).filter((file) => file.startsWith(`${disk}-`)).length <= max;
    await until(
      `at most ${max} layers of each disk`,
      async () => (await isShort("workspace")) && (await isShort("rootfs")),
    );
  }
});

test("a snapshot that is forked often gets a memory base of its own, which its forks share", async () => {
  const { id } = await host.start();
  await host.shell(id, "head -c 20000000 /dev/urandom >/dev/shm/big; sha256sum /dev/shm/big >sum");
  const snapshotId = await checkpoint(id);
  await host.worker.stopSandbox(id);
  for (let fork = 0; fork < 3; fork += 1) {
    const early = await host.start({ kind: "snapshot", snapshotId, identity: "new" });
    await host.worker.stopSandbox(early.id);
  }
  const file = join(host.dataDirectory, "snapshots", snapshotId, "manifest.json");
  const memory = async () => decodeManifest(await readFile(file, "utf8")).memory;
  // The base is made in the background, without a report of its end.
  await until("a base of the snapshot's own", async () => (await memory())?.delta === undefined);

  const late = await host.start({ kind: "snapshot", snapshotId, identity: "new" });
  assert.equal(late.restoredFrom, "memory");
  await host.shell(late.id, "sha256sum -c sum");
  assert.equal(await sleepAndWake(late.id), "memory");
  await host.worker.removeSnapshot(snapshotId);
  await host.shell(late.id, "sha256sum -c sum");
  await host.worker.stopSandbox(late.id);
});

test("a snapshot with any damaged file is refused, and others are unaffected", async () => {
  const { id } = await host.start();
  await host.shell(id, "echo content >/workspace/file; sync");
  const good = await checkpoint(id);
  const bad = await checkpoint(id);
  const directory = join(host.dataDirectory, "snapshots", bad);
  const { files } = decodeManifest(await readFile(join(directory, "manifest.json"), "utf8"));
  const own = files.disks.flatMap(({ layers }) => layers.slice(-1).map(({ file }) => file));
  const devices = (await readdir(directory)).filter((name) => name.startsWith("devices"));
  for (const file of ["manifest.json", "memory.delta", ...devices, ...own]) {
    const flip = await flipByte(join(directory, file));
    await assert.rejects(
      host.start({ kind: "snapshot", snapshotId: bad, identity: "new" }),
      (error) => isSandboxError(error, "incompatible") && error.details.reason === "damaged",
      file,
    );
    await flip();
  }
  const fork = await host.start({ kind: "snapshot", snapshotId: good, identity: "new" });
  assert.equal(await host.shell(fork.id, "cat /workspace/file"), "content");
  await host.worker.stopSandbox(fork.id);
  await host.worker.stopSandbox(id);
  await host.worker.removeSnapshot(good);
  await host.worker.removeSnapshot(bad);
  assert.deepEqual(await readdir(join(host.dataDirectory, "machines")), []);
});

test("much changed memory wakes whole, and with any damaged chunk the guest does not run", async () => {
  const { id } = await host.start(undefined, { memoryMib: 2048 });
  // Zeros take memory of the guest, and none of the file.
  await host.shell(
    id,
    "head -c 150000000 /dev/urandom >/dev/shm/big; head -c 200000000 /dev/zero >/dev/shm/zeros; " +
      "sha256sum /dev/shm/big /dev/shm/zeros >sum",
  );
  const snapshotId = newSnapshotId();
  await host.worker.hibernateSandbox(id, snapshotId, never);
  const directory = join(host.dataDirectory, "snapshots", snapshotId);
  const { memory } = decodeManifest(await readFile(join(directory, "manifest.json"), "utf8"));
  assert.equal(memory?.delta?.chunked, true);
  assert.ok(memory.delta.bytes > 150e6 && memory.delta.bytes < 300e6, `${memory.delta.bytes} bytes`);

  const wake = () => host.start({ kind: "snapshot", snapshotId, identity: "same" }, { id, memoryMib: 2048 });
  const flipBack = await flipByte(join(directory, memory.delta.file));
  await assert.rejects(wake(), (error) => isSandboxError(error, "incompatible") && error.details.reason === "damaged");
  assert.deepEqual(await processesOf(host.dataDirectory), []);
  await flipBack();
  assert.equal((await wake()).restoredFrom, "memory");
  await host.worker.removeSnapshot(snapshotId);
  await host.shell(id, "sha256sum -c sum");
  await host.worker.stopSandbox(id);
});

test("memory of another QEMU, or another shape, is not restored: the disks boot, and the answer says why", async () => {
  const { id } = await host.start();
  await host.shell(id, "echo content >/workspace/file");
  const snapshotId = newSnapshotId();
  await host.worker.hibernateSandbox(id, snapshotId, never);
  const manifestFile = join(host.dataDirectory, "snapshots", snapshotId, "manifest.json");
  const manifest = decodeManifest(await readFile(manifestFile, "utf8"));
  assert.ok(manifest.memory);
  const compatibility = manifest.memory.compatibility.replace(/qemu [\d.]+/, "qemu 9.0.0");
  await writeFile(manifestFile, encodeManifest({ ...manifest, memory: { ...manifest.memory, compatibility } }));

  const woken = await host.start({ kind: "snapshot", snapshotId, identity: "same" }, { id });
  assert.equal(woken.restoredFrom, "disk");
  assert.match(woken.restoredBecause ?? "", /captured by qemu 9\.0\.0, and this host has qemu/);
  assert.equal(await host.shell(id, "cat /workspace/file"), "content");
  await host.worker.stopSandbox(id);
});

test("a machine outlives its worker and is adopted with everything in it", async (t) => {
  const { id } = await host.start(undefined, { envs: { NAME: "kept" } });
  await host.shell(id, startCounting);
  const before = Number(await host.shell(id, counted));
  const worker = await host.reopen();
  assert.deepEqual(await worker.listSandboxes(), [{ id, generation: 1, memoryMib: 1024, running: true }]);
  assert.ok(Number(await host.shell(id, counted)) > before);
  assert.equal(await host.shell(id, "echo $NAME"), "kept");
  assert.equal(await sleepAndWake(id), "memory");

  await t.test("a worker without a lease adopts it paused, and it continues when the worker resumes it", async () => {
    const { worker } = host;
    const last = Number(await host.shell(id, counted));
    const fenced = await host.reopen({ adopting: "paused" });
    assert.notEqual(fenced, worker);
    const { files } = fenced.guest(id);
    await assert.rejects(files.stat("/", {}, AbortSignal.timeout(3000)), "a paused guest answers nothing");
    await host.resumeAll();
    assert.ok(Number(await host.shell(id, counted)) > last);
  });
  await host.worker.stopSandbox(id);
});

test("a killed machine boots again on its disks", async () => {
  const { id } = await host.start();
  await host.shell(id, "echo content >/workspace/file; sync");
  const ended = host.worker.waitForEnd(id, never);
  const [machine = ""] = await readdir(join(host.dataDirectory, "machines"));
  const [pid = 0] = await processesOf(join(host.dataDirectory, "machines", machine));
  process.kill(pid, "SIGKILL");
  assert.equal((await ended).reason, "exited");
  await assert.rejects(host.shell(id, "true"), (error) => isSandboxError(error, "unavailable"));
  await host.worker.powerCycleSandbox(id, never);
  assert.equal(await host.shell(id, "cat /workspace/file"), "content");

  // A booted machine is captured like a restored one.
  assert.equal(await sleepAndWake(id), "memory");
  assert.equal(await host.shell(id, "cat /workspace/file"), "content");
  await host.worker.stopSandbox(id);
});

test("after all of these nothing is left behind", async () => {
  for (const name of ["machines", "snapshots", "journal"]) {
    const directory = join(host.dataDirectory, name);
    const left = existsSync(directory) ? (await readdir(directory)).filter((file) => file !== "lock") : [];
    // A test above keeps one snapshot on purpose.
    assert.deepEqual(name === "snapshots" ? left.slice(1) : left, [], name);
  }
  assert.deepEqual(await processesOf(host.dataDirectory), []);
});

/** Waits up to two minutes: merging under emulation, on a busy host, takes seconds. */
async function until(what: string, isTrue: () => Promise<boolean>): Promise<void> {
  await eventually(what, isTrue, { withinMs: 120_000, everyMs: 100 });
}

/** Flips a bit in the middle of a file; the returned function flips it back. */
async function flipByte(path: string): Promise<() => Promise<void>> {
  const position = Math.floor((await readFile(path)).length / 2);
  const flip = async (): Promise<void> => {
    await using file = await open(path, "r+");
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, position);
    byte[0]! ^= 0x01;
    await file.write(byte, 0, 1, position);
  };
  await flip();
  return flip;
}
