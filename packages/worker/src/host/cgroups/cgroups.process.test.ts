import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { Cgroups, cgroupsOf, type Cgroup } from "./cgroups.ts";
import { type Controller, findCgroups } from "./find-cgroups.ts";
import { inCgroups } from "./in-cgroups.ts";

const found = await findCgroups();
const skip = "missing" in found ? false : `no cgroups can be made here: ${found.reason}`;

/** The reason to skip a test of a controller that this host lacks. */
function without(controller: Controller): string | false {
  if (!("missing" in found)) return skip;
  return found.missing.includes(controller) ? `this host has no ${controller} controller` : false;
}

interface World extends AsyncDisposable {
  readonly dataDirectory: string;
  readonly cgroups: Cgroups;
  reopen(): Promise<Cgroups>;
  start(cgroup: Cgroup, script: string): ChildProcess & { readonly pid: number };
}

async function startWorld(): Promise<World> {
  assert.ok("missing" in found);
  const dataDirectory = await mkdtemp(join(tmpdir(), "osb-cgroups-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(dataDirectory, { recursive: true }));
  const cgroups = await Cgroups.open(found, dataDirectory);
  undo.defer(() => cgroups.close());
  const started: ChildProcess[] = [];
  undo.defer(() => {
    for (const child of started) child.kill("SIGKILL");
  });
  const owned = undo.move();
  return {
    ...{ dataDirectory, cgroups },
    reopen: () => Cgroups.open(found, dataDirectory),
    start(cgroup, script) {
      const [program, ...args] = inCgroups(cgroup.entrances, 500, ["sh", "-c", script]);
      const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
      started.push(child);
      return child as ChildProcess & { readonly pid: number };
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function outputOf(child: ChildProcess): Promise<string> {
  const chunks: Buffer[] = [];
  child.stdout?.on("data", (chunk: Buffer) => chunks.push(chunk));
  await once(child, "close");
  return Buffer.concat(chunks).toString().trim();
}

/** The content of a limit's file in the hierarchy that has the controller. */
async function limitOf(cgroup: Cgroup, controller: Controller, first: string, second: string): Promise<string> {
  assert.ok("missing" in found);
  const index = found.hierarchies.findIndex((hierarchy) => hierarchy.controllers.includes(controller));
  const file = found.hierarchies[index]?.version === 1 ? first : second;
  return (await readFile(join(cgroup.entrances[index] ?? "", "..", file), "utf8")).trim();
}

async function nothingIsLeft(dataDirectory: string): Promise<void> {
  assert.ok("missing" in found);
  assert.deepEqual([...(await cgroupsOf(dataDirectory, found.hierarchies))], []);
}

test("a program starts inside its cgroups and with its OOM score", { skip }, async () => {
  await using world = await startWorld();
  await using cgroup = await world.cgroups.create("m-1", {});
  const output = await outputOf(world.start(cgroup, "cat /proc/self/oom_score_adj /proc/self/cgroup"));
  const [score, ...memberships] = output.split("\n");
  assert.equal(score, "500");
  const inside = memberships.filter((line) => /\/opensandbox-machines\/[0-9a-f]{8}-m-1$/.test(line));
  assert.equal(inside.length, cgroup.entrances.length, output);
});

test("a process that cannot enter a cgroup runs nothing", async () => {
  const [program, ...args] = inCgroups(["/nowhere/cgroup.procs"], 500, ["echo", "ran"]);
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "ignore"] });
  assert.equal(await outputOf(child), "");
  assert.equal(child.exitCode, 126);
});

test("limits are set when the cgroup is made and change while processes run", { skip }, async () => {
  await using world = await startWorld();
  const first = { memoryBytes: 64 * 2 ** 20, cpuWeight: 200, ioWeight: 200, maxTasks: 50 };
  await using cgroup = await world.cgroups.create("m-1", first);
  const child = world.start(cgroup, "exec sleep 60");
  const limits = async (): Promise<Record<string, string>> => ({
    memory: without("memory") || (await limitOf(cgroup, "memory", "memory.limit_in_bytes", "memory.max")),
    weight: without("cpu") || (await limitOf(cgroup, "cpu", "cpu.shares", "cpu.weight")),
    quota: without("cpu") || (await limitOf(cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max")),
    tasks: without("pids") || (await limitOf(cgroup, "pids", "pids.max", "pids.max")),
  });
  const before = await limits();
  await cgroup.setLimits({ memoryBytes: 128 * 2 ** 20, cpuPercent: 150, maxTasks: 60 });
  const after = await limits();
  await cgroup.setLimits({ cpuPercent: "unlimited" });
  const last = await limits();
  child.kill("SIGKILL");
  await once(child, "close");
  if (!without("memory")) assert.deepEqual([before["memory"], after["memory"]], ["67108864", "134217728"]);
  if (!without("pids")) assert.deepEqual([before["tasks"], after["tasks"]], ["50", "60"]);
  if (!without("cpu")) {
    assert.match(String(before["weight"]), /^(2048|200)$/);
    assert.match(String(after["quota"]), /^150000( 100000)?$/);
    assert.match(String(last["quota"]), /^(-1|max 100000)$/);
  }
});

test(
  "a process that exceeds the memory limit is killed, and processes elsewhere run on",
  { skip: without("memory") },
  async () => {
    await using world = await startWorld();
    await using small = await world.cgroups.create("m-1", { memoryBytes: 32 * 2 ** 20 });
    await using other = await world.cgroups.create("m-2", { memoryBytes: 512 * 2 ** 20 });
    const script = "head -c 100000000 /dev/zero | tail -c 100000000 >/dev/null; echo $?";
    const [killed, survived] = await Promise.all([
      outputOf(world.start(small, script)),
      outputOf(world.start(other, script)),
    ]);
    assert.deepEqual([killed, survived], ["137", "0"]);
    assert.deepEqual([(await small.usage()).oomKills, (await other.usage()).oomKills], [1, 0]);
  },
);

test(
  "writing files larger than the memory limit reclaims page cache and kills nothing",
  { skip: without("memory") },
  async () => {
    await using world = await startWorld();
    await using cgroup = await world.cgroups.create("m-1", { memoryBytes: 32 * 2 ** 20 });
    const file = join(world.dataDirectory, "file");
    assert.equal(
      await outputOf(world.start(cgroup, `dd if=/dev/zero of=${file} bs=1M count=128 2>&1 >/dev/null; echo $?`)).then(
        (text) => text.split("\n").at(-1),
      ),
      "0",
    );
    assert.equal((await cgroup.usage()).oomKills, 0);
  },
);

test("a process cannot have more tasks than its cgroup allows", { skip: without("pids") }, async () => {
  await using world = await startWorld();
  await using cgroup = await world.cgroups.create("m-1", { maxTasks: 5 });
  const output = await outputOf(world.start(cgroup, "for i in 1 2 3 4 5 6 7 8; do sleep 0.2 & done 2>&1; echo end"));
  assert.match(output, /fork/i);
});

test("under contention, processor time is divided by weight", { skip: without("cpu") }, async (t: TestContext) => {
  await using world = await startWorld();
  await using light = await world.cgroups.create("m-1", { cpuWeight: 100 });
  await using heavy = await world.cgroups.create("m-2", { cpuWeight: 400 });
  if ((await light.usage()).cpuMicroseconds === undefined) return t.skip("this host does not account processor time");
  const children = [light, heavy].map((cgroup) => world.start(cgroup, "exec taskset -c 0 sh -c 'while :; do :; done'"));
  // Both wait for the same processor, so that the ratio does not depend on the host's load.
  await eventually("0.8 s of processor time", async () => ((await heavy.usage()).cpuMicroseconds ?? 0) > 800_000);
  const [ofLight = 0, ofHeavy = 0] = [(await light.usage()).cpuMicroseconds, (await heavy.usage()).cpuMicroseconds];
  for (const child of children) child.kill("SIGKILL");
  await Promise.all(children.map((child) => once(child, "close")));
  assert.ok(ofHeavy > 2 * ofLight, `${ofHeavy} and ${ofLight} µs`);
});

test("the next worker finds the cgroup of a running process, and removes the others", { skip }, async () => {
  await using world = await startWorld();
  const running = await world.cgroups.create("m-1", { maxTasks: 50 });
  const child = world.start(running, "echo started; exec sleep 60");
  await once(child.stdout!, "data");
  await world.cgroups.create("m-2", {});
  const next = await world.reopen();
  const adopted = await next.adopt("m-1", child.pid, { maxTasks: 60 });
  assert.deepEqual(adopted.entrances.toSorted(), running.entrances.toSorted());
  assert.deepEqual(await next.removeLeftOver((name) => name === "m-1"), ["m-2"]);
  child.kill("SIGKILL");
  await adopted[Symbol.asyncDispose]();
  await nothingIsLeft(world.dataDirectory);
});

test(
  "an old, empty cgroup of a data directory that is gone is removed; a new one and one in use stay",
  { skip },
  async () => {
    await using gone = await startWorld();
    const [old, young, used] = [
      await gone.cgroups.create("m-1", {}),
      await gone.cgroups.create("m-2", {}),
      await gone.cgroups.create("m-3", {}),
    ];
    const child = gone.start(used, "echo started; exec sleep 60");
    await once(child.stdout!, "data");
    for (const entrance of [...old.entrances, ...used.entrances]) await utimes(dirname(entrance), 0, 0);
    await using other = await startWorld();
    await other.cgroups.removeLeftOver(() => false);
    assert.ok("missing" in found);
    const left = await cgroupsOf(gone.dataDirectory, found.hierarchies);
    assert.deepEqual([...left.keys()].toSorted(), ["m-2", "m-3"]);
    child.kill("SIGKILL");
    for (const cgroup of [young, used]) await cgroup[Symbol.asyncDispose]();
  },
);

test("a process that was started without a cgroup gets one when it is adopted", { skip }, async () => {
  await using world = await startWorld();
  const child = spawn("sleep", ["60"], { stdio: "ignore" });
  const adopted = await world.cgroups.adopt("m-1", child.pid!, { maxTasks: 50 });
  const memberships = await readFile(`/proc/${child.pid}/cgroup`, "utf8");
  assert.match(memberships, /\/opensandbox-machines\/[0-9a-f]{8}-m-1$/m);
  child.kill("SIGKILL");
  await adopted[Symbol.asyncDispose]();
  await nothingIsLeft(world.dataDirectory);
});

test("the last server removes the parent, and the next cgroup makes it again", { skip }, async () => {
  await using world = await startWorld();
  const first = await world.cgroups.create("m-1", {});
  await first[Symbol.asyncDispose]();
  await world.cgroups.close();
  await using second = await world.cgroups.create("m-2", { cpuWeight: 100 });
  assert.equal(second.entrances.length, first.entrances.length);
});
