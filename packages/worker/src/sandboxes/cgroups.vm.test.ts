// What one machine takes from the host is bounded: the cgroups of real machines, and cgroup v2 in a real guest.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { stripTypeScriptTypes } from "node:module";
import { basename, dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { cgroupsOf } from "#host/cgroups/cgroups.ts";
import { findCgroups } from "#host/cgroups/find-cgroups.ts";
import { processesOf } from "#host/kill-by-path.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import { leftBehind } from "../testing/left-behind.ts";
import { startTestHost, type TestHost } from "../testing/test-host.ts";

const never = new AbortController().signal;
const found = await findCgroups();
const skip = "missing" in found ? false : `no cgroups can be made here: ${found.reason}`;
let host: TestHost;

before(async () => {
  host = await startTestHost();
});
after(() => host[Symbol.asyncDispose]());

/** The cgroups of all machines of the host under test. */
class MachineCgroup {
  readonly name: string;
  readonly #directories: readonly string[];

  constructor(name: string, directories: readonly string[]) {
    this.name = name;
    this.#directories = directories;
  }

  static async all(): Promise<MachineCgroup[]> {
    const machines = [...(await cgroupsOf(host.dataDirectory, found.hierarchies))];
    return machines
      .filter(([name]) => name.startsWith("m-"))
      .map(([name, directories]) => new MachineCgroup(name, directories));
  }

  /** The first of the files that exists in any hierarchy: a v1 name and a v2 name. */
  async read(...files: readonly string[]): Promise<string> {
    for (const file of files) {
      for (const directory of this.#directories) {
        const text = await readFile(join(directory, file), "utf8").catch(() => undefined);
        if (text !== undefined) return text.trim();
      }
    }
    throw new Error(`${this.name} has none of ${files.join(", ")}`);
  }

  /** Writes to the first of the files that exists. */
  async write(text: string, ...files: readonly string[]): Promise<void> {
    const paths = files.flatMap((file) => this.#directories.map((directory) => join(directory, file)));
    const path = paths.find((path) => existsSync(path));
    if (path === undefined) throw new Error(`${this.name} has none of ${files.join(", ")}`);
    await writeFile(path, text);
  }

  async field(name: string, ...files: readonly string[]): Promise<number> {
    return Number(new RegExp(`^${name} (\\d+)$`, "m").exec(await this.read(...files))?.[1]);
  }

  async limitMib(): Promise<number> {
    return Number(await this.read("memory.max", "memory.limit_in_bytes")) / 2 ** 20;
  }

  async usage() {
    const inMib = (bytes: number): number => Math.round(bytes / 2 ** 20);
    return {
      memoryMib: inMib(Number(await this.read("memory.current", "memory.usage_in_bytes"))),
      peakMib: inMib(Number(await this.read("memory.peak", "memory.max_usage_in_bytes"))),
      anonymousMib: inMib((await this.field("total_rss", "memory.stat")) || (await this.field("anon", "memory.stat"))),
      oomKills: await this.field("oom_kill", "memory.events", "memory.oom_control"),
      tasks: Number(await this.read("pids.current")),
    };
  }

  async cpuSeconds(): Promise<number> {
    const second = await this.field("usage_usec", "cpu.stat");
    return Number.isNaN(second) ? Number(await this.read("cpuacct.usage")) / 1e9 : second / 1e6;
  }

  async members(): Promise<string[]> {
    return (await this.read("cgroup.procs")).split("\n");
  }
}

/** A command that writes to each page of `bytes` of its memory. */
function useMemory(bytes: number): string {
  return `python3 -c 'b = bytearray(${bytes}); b[::4096] = b"x" * len(b[::4096])'`;
}

async function only(id: SandboxId): Promise<MachineCgroup> {
  const [cgroup, ...others] = await MachineCgroup.all();
  assert.ok(cgroup !== undefined && others.length === 0, `${id} is not the only machine`);
  return cgroup;
}

test("a machine that uses all its memory and writes large files is not killed", { skip }, async (t) => {
  const { id } = await host.start();
  const cgroup = await only(id);
  const pids = await processesOf(join(host.dataDirectory, "machines"));
  assert.deepEqual(await cgroup.members(), pids.map(String));
  assert.equal((await readFile(`/proc/${pids[0]}/oom_score_adj`, "utf8")).trim(), "500");

  await t.test("files fill the guest's page cache, its commands fill the rest", async () => {
    await host.shell(id, "head -c 1100000000 /dev/zero >/workspace/big; sync; cat /workspace/big >/dev/null");
    // The guest's own limit ends the command.
    await host.shell(id, `${useMemory(1_100_000_000)} || true`);
    const usage = await cgroup.usage();
    t.diagnostic(`limit ${await cgroup.limitMib()} MiB, ${JSON.stringify(usage)}`);
    assert.ok(usage.anonymousMib > 900, "the guest has used its memory");
    assert.equal(usage.oomKills, 0);
    assert.ok(usage.anonymousMib < (await cgroup.limitMib()) - 256, "room for page cache is left");
    const diskMib = (await host.worker.measureDisk({ sandboxes: [id], snapshots: [] })) / 2 ** 20;
    assert.ok(diskMib > 1000 && diskMib < 2000, `its disks take ${diskMib} MiB`);
  });

  await t.test("more memory raises the limit first, and less lowers it", async () => {
    const before = await cgroup.limitMib();
    assert.deepEqual(await host.worker.scaleSandbox(id, { memoryMib: 2048 }, never), { done: true });
    assert.equal(await cgroup.limitMib(), before + 1024 + 16);
    await host.shell(id, useMemory(1_500_000_000));
    assert.equal((await cgroup.usage()).oomKills, 0);
    t.diagnostic(`with 2048 MiB: limit ${await cgroup.limitMib()} MiB, ${JSON.stringify(await cgroup.usage())}`);
    assert.deepEqual(await host.worker.scaleSandbox(id, { memoryMib: 1024 }, never), { done: true });
    assert.equal(await cgroup.limitMib(), before);
  });

  await t.test("the next worker finds the cgroup of the running machine, and its end removes it", async () => {
    const worker = await host.reopen();
    assert.equal((await only(id)).name, cgroup.name);
    assert.equal(await host.shell(id, "echo alive"), "alive");
    await worker.powerCycleSandbox(id, never);
    assert.equal((await (await only(id)).members()).length, 1);
    await worker.stopSandbox(id);
    assert.deepEqual((await leftBehind(host.dataDirectory)).cgroups, []);
  });
});

test("a machine beyond its memory limit is killed alone, and its end says why", { skip }, async () => {
  const { id } = await host.start();
  const cgroup = await only(id);
  const other = await host.start();
  const { anonymousMib } = await cgroup.usage();
  await cgroup.write(String((anonymousMib + 64) * 2 ** 20), "memory.max", "memory.limit_in_bytes");
  const ended = host.worker.waitForEnd(id, AbortSignal.timeout(120_000));
  const allocate = host.shell(id, useMemory(500_000_000));
  await assert.rejects(allocate);
  const { reason, detail } = await ended;
  assert.equal(reason, "exited");
  assert.match(detail, /^the machine died: the kernel killed it because it used more of the host's memory/);
  assert.equal(await host.shell(other.id, "echo alive"), "alive");
  // Its disks boot again, within its usual limit.
  await host.worker.powerCycleSandbox(id, never);
  assert.equal(await host.shell(id, "echo alive"), "alive");
  for (const sandbox of [id, other.id]) await host.worker.stopSandbox(sandbox);
});

test("a machine that burns all its processors leaves others their share", { skip }, async () => {
  const [burning, quiet] = [await host.start(undefined, { vcpus: 1 }), await host.start(undefined, { vcpus: 1 })];
  const cgroups = await MachineCgroup.all();
  assert.equal(cgroups.length, 2);
  for (const cgroup of cgroups) {
    assert.match(await cgroup.read("cpu.weight", "cpu.shares"), /^(100|1024)$/);
    assert.ok(Number(await cgroup.read("pids.max")) <= 256);
  }
  const used = async (): Promise<number[]> => await Promise.all(cgroups.map((cgroup) => cgroup.cpuSeconds()));
  const before = await used();
  const burn = host.shell(
    burning.id,
    "for i in 1 2 3 4; do (timeout 20 sh -c 'while :; do :; done') & done; wait; true",
  );
  // Answers arrive while every virtual processor of the other machine burns.
  for (let round = 0; round < 5; round += 1) assert.equal(await host.shell(quiet.id, "echo alive", 20_000), "alive");
  await burn;
  const spent = (await used()).map((seconds, index) => seconds - before[index]!);
  assert.ok(Math.max(...spent) > 5, `seconds of processor: ${spent.join(", ")}`);
  // The children of one parent compete by weight, and the burning machine has no more of it than the other.
  const [first, second] = await Promise.all(cgroups.map((cgroup) => cgroup.read("cpu.weight", "cpu.shares")));
  assert.equal(first, second);
  for (const { id } of [burning, quiet]) await host.worker.stopSandbox(id);
});

test("a real cgroup v2 hierarchy limits processes as v1 does", async (t) => {
  const { id } = await host.start();
  await sendProgram(id);
  const node =
    "/run/opensandbox/lib/ld-linux-x86-64.so.2 --library-path /run/opensandbox/lib /run/opensandbox/bin/node";
  const program = `exec ${node} --jitless --disable-warning=ExperimentalWarning /tmp/try/try-cgroups.mjs`;

  await t.test("at the top of the hierarchy", async () => {
    const line = `sudo sh -c 'echo 0 >/sys/fs/cgroup/cgroup.procs; ${program}'`;
    const facts = JSON.parse(await host.shell(id, line)) as Facts;
    t.diagnostic(JSON.stringify(facts));
    assert.deepEqual([facts.hierarchies.length, facts.hierarchies[0]?.base], [1, "/sys/fs/cgroup"]);
    assert.equal(facts.own, "0::/");
    check(facts, /^0::\/opensandbox-machines\/[0-9a-f]{8}-m-1$/);
  });

  await t.test("below a delegated cgroup, whose processes move to a leaf", async () => {
    const mark = `import os; os.setxattr("/sys/fs/cgroup/unit", "user.delegate", b"1")`;
    const line =
      `sudo sh -c 'mkdir /sys/fs/cgroup/unit; echo 0 >/sys/fs/cgroup/unit/cgroup.procs; mkdir -p /run/systemd/system; ` +
      `python3 -c "$1"; ${program}' sh '${mark}'`;
    const facts = JSON.parse(await host.shell(id, line)) as Facts;
    assert.deepEqual(facts.hierarchies[0]?.base, "/sys/fs/cgroup/unit");
    assert.equal(facts.own, "0::/unit/server");
    check(facts, /^0::\/unit\/opensandbox-machines\/[0-9a-f]{8}-m-1$/);
  });
  await host.worker.stopSandbox(id);
});

/** The output of host/testing/try-cgroups.ts. */
interface Facts {
  readonly hierarchies: readonly { readonly version: number; readonly base: string }[];
  readonly missing: readonly string[];
  readonly own: string;
  readonly membership: string;
  readonly values: Readonly<Record<string, string>>;
  readonly live: Readonly<Record<string, string>>;
  readonly usage: Readonly<Record<string, number>>;
  readonly killed: string;
  readonly survived: string;
  readonly forks: string;
  readonly removed: readonly string[];
  readonly left: readonly string[];
  readonly isProtected: boolean;
  readonly score: string;
}

function check(facts: Facts, membership: RegExp): void {
  assert.match(facts.membership, membership);
  const { memory, weight, tasks } = facts.values;
  assert.deepEqual({ memory, weight, tasks }, { memory: "33554432", weight: "200", tasks: "20" });
  assert.deepEqual(facts.live, { quota: "150000 100000", memory: "314572800" });
  assert.deepEqual([facts.killed, facts.survived, facts.usage["oomKills"]], ["137", "0", 1]);
  assert.ok(facts.usage["cpuMicroseconds"]! > 0);
  assert.match(facts.forks, /fork/i);
  assert.deepEqual([facts.removed, facts.left], [["m-2"], []]);
  assert.deepEqual([facts.isProtected, facts.score], [true, "-500"]);
}

/** Puts the program and its modules into the guest, without their types and with imports by file name. */
async function sendProgram(id: SandboxId): Promise<void> {
  const source = join(import.meta.dirname, "..");
  const files = [
    "host/testing/try-cgroups.ts",
    ...["cgroups", "find-cgroups", "in-cgroups"].map((name) => `host/cgroups/${name}.ts`),
    ...["libc", "ffi"].map((name) => `host/kernel/${name}.ts`),
    "host/oom-score.ts",
    "../../wire/src/errors.ts",
  ];
  for (const file of files) {
    const code = stripTypeScriptTypes(await readFile(join(source, file), "utf8"));
    const linked = code.replaceAll(
      /from "([^"]+)\.ts"/g,
      (_, path: string) => `from "./${path.slice(path.lastIndexOf("/") + 1)}.mjs"`,
    );
    const target = `/tmp/try/${basename(file, ".ts")}.mjs`;
    const encoded = Buffer.from(linked).toString("base64");
    await host.shell(id, `mkdir -p ${dirname(target)}; echo ${encoded} | base64 -d >${target}`);
  }
}
