import assert from "node:assert/strict";
import { chown, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { machineDirectory, startMark } from "#machine/journal.ts";
import { examineHost } from "../examine-host.ts";
import { makeDataDirectory, openTestWorker, startRequest } from "../testing/test-host.ts";

interface Logged {
  readonly level: string;
  readonly message: string;
  readonly fields?: object | undefined;
}

/** Opens a worker that runs no machines, as after a restart of the host, and closes it. Returns what it logged. */
async function openOnce(dataDirectory: string): Promise<readonly Logged[]> {
  const logged: Logged[] = [];
  await using opened = await openTestWorker({
    dataDirectory,
    hypervisor: "fake",
    log: (level, message, fields) => logged.push({ level, message, fields }),
  });
  assert.deepEqual(await opened.worker.listSandboxes(), []);
  return logged;
}

async function machineWithDisk(t: TestContext, journalEntry: string): Promise<string> {
  const dataDirectory = await makeDataDirectory();
  t.after(() => rm(dataDirectory, { recursive: true }));
  const directory = machineDirectory(dataDirectory, "m-00000001");
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, "rootfs-1.qcow2"), "the disk");
  await mkdir(join(dataDirectory, "journal"));
  await writeFile(join(dataDirectory, "journal", "m-00000001.json"), journalEntry);
  return dataDirectory;
}

test("a machine whose journal entry cannot be read keeps its disks, and the log says where", async (t) => {
  const torn = '{"machineId":"m-00000001","workerId":"w-00000001","ephemeral":false,"sandbox":{"id":"sb-';
  for (const [damage, content] of Object.entries({ empty: "", torn, "full of zeros": "\0".repeat(100) })) {
    await t.test(damage, async (t) => {
      const dataDirectory = await machineWithDisk(t, content);

      const logged = await openOnce(dataDirectory);

      const lostAndFound = join(dataDirectory, "machines", "lost+found");
      const [kept = "", ...others] = await readdir(lostAndFound);
      assert.deepEqual(others, []);
      const directory = join(lostAndFound, kept);
      assert.equal(await readFile(join(directory, "rootfs-1.qcow2"), "utf8"), "the disk");
      const errors = logged.filter(({ level }) => level === "error");
      assert.deepEqual(
        errors.map(({ fields }) => fields),
        [{ machine: "m-00000001", directory }],
      );
      assert.match(errors[0]?.message ?? "", /moved aside.*delete the directory/);

      const later = (await openOnce(dataDirectory)).filter(({ level }) => level === "error");
      assert.deepEqual(later, [], "the next worker has nothing to report");
      assert.deepEqual(await readdir(lostAndFound), [kept]);
      const findings = await examineHost({
        dataDirectory,
        qemuProgram: "/nonexistent",
        accelerator: "auto",
        agentTransport: "auto",
      });
      const found = findings.find(({ name }) => name === "lost machines");
      assert.equal(found?.level, "warn");
      assert.ok(found.detail.includes(lostAndFound), found.detail);
    });
  }
});

test("a machine that was being started when the power failed is removed, although its entry is empty", async (t) => {
  const dataDirectory = await machineWithDisk(t, "");
  await writeFile(startMark(dataDirectory, "m-00000001"), "");
  const logged = await openOnce(dataDirectory);
  assert.deepEqual(await readdir(join(dataDirectory, "machines")), []);
  assert.deepEqual(
    logged.filter(({ level }) => level === "error"),
    [],
  );
});

test("a machine that was being started when its worker died is removed", async (t) => {
  const entry = { machineId: "m-00000001", workerId: "w-00000001", ephemeral: false };
  const dataDirectory = await machineWithDisk(t, JSON.stringify(entry));
  await openOnce(dataDirectory);
  assert.deepEqual(await readdir(join(dataDirectory, "machines")), []);
});

const needsRoot = process.getuid?.() === 0 ? false : "needs root";

test(
  "a worker of one command adopts no disks, and the next machine on their slot cannot read them",
  { skip: needsRoot },
  async (t) => {
    // After a reboot of the host: nothing has the slot, and the directory belongs to the slot's user.
    const sandbox = { ...startRequest(), networkEnabled: false };
    const machine = { slot: 7, spec: { memoryMib: 1024 }, network: "none", image: "minimal", files: {}, nextLayer: 1 };
    const entry = { machineId: "m-00000001", workerId: "w-00000001", ephemeral: false, sandbox, machine };
    const dataDirectory = await machineWithDisk(t, JSON.stringify(entry));
    const directory = machineDirectory(dataDirectory, "m-00000001");
    await chown(directory, 1_900_000_007, 2_000_000_009);

    await using _ = await openTestWorker({ dataDirectory, hypervisor: "fake", ephemeral: true, log: () => undefined });

    const { uid, gid } = await stat(directory);
    assert.deepEqual([uid, gid], [0, 0]);
    assert.equal(await readFile(join(directory, "rootfs-1.qcow2"), "utf8"), "the disk");
  },
);

test("an unreadable entry is left alone while another worker runs on the directory", async (t) => {
  const dataDirectory = await machineWithDisk(t, "");
  // Without an entry the first worker does not look at the machine.
  await rm(join(dataDirectory, "journal"), { recursive: true });
  await using _first = await openTestWorker({
    dataDirectory,
    hypervisor: "fake",
    log: () => undefined,
  });
  await writeFile(join(dataDirectory, "journal", "m-00000001.json"), "");
  const logged = await openOnce(dataDirectory);
  assert.deepEqual(await readdir(join(dataDirectory, "machines")), ["m-00000001"]);
  assert.match(logged.find(({ level }) => level === "error")?.message ?? "", /left alone/);
});
