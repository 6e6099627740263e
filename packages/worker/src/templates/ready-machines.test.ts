import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import type { VmExit } from "#hypervisor/hypervisor.ts";
import { ReadyMachines, type ReadyMachinesOptions } from "./ready-machines.ts";

class Machine implements AsyncDisposable {
  readonly template: string;
  readonly #exited = Promise.withResolvers<VmExit>();
  answers = true;
  isClaimed = false;
  isDisposed = false;

  constructor(template: string) {
    this.template = template;
  }

  get vm() {
    return {
      exited: this.#exited.promise,
      pause: async () => {
        await Promise.resolve();
        if (!this.answers) throw new Error("it does not answer");
      },
    };
  }

  crash(): void {
    this.#exited.resolve({ reason: "died", detail: "" });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.resolve();
    this.isDisposed = true;
  }
}

/** Ready machines of templates with 1024 MiB, whose machines need 768 MiB each. */
class Stand implements AsyncDisposable {
  readonly made: Machine[] = [];
  readonly warnings: string[] = [];
  readonly pool: ReadyMachines<Machine>;
  now = 0;
  /** Templates that cannot be restored now, or are gone. */
  readonly broken = new Set<string>();
  readonly gone = new Set<string>();

  constructor(options: Partial<ReadyMachinesOptions> = {}) {
    const idle = { untilIdle: () => Promise.resolve() };
    const log = (level: string, message: string): void => void this.warnings.push(`${level}: ${message}`);
    this.pool = new ReadyMachines({ perTemplate: 2, budgetMib: 100_000, now: () => this.now, idle, log, ...options });
  }

  /** Starts a sandbox: takes a ready machine, or restores the template. Returns whether a machine was ready. */
  use(template: string): boolean {
    for (const machine of this.pool.claims(template)) {
      machine.isClaimed = true;
      return true;
    }
    this.pool.want(template, {
      ...{ image: template, memoryMib: 1024, vcpus: 1 },
      make: async () => {
        await Promise.resolve();
        if (this.broken.has(template)) throw new Error("it cannot be restored");
        if (this.gone.has(template)) return undefined;
        const machine = new Machine(template);
        this.made.push(machine);
        return machine;
      },
    });
    return false;
  }

  async full(): Promise<void> {
    await eventually("every wanted machine is ready", () => {
      const { ready, wanted } = this.pool.state;
      return ready === wanted;
    });
  }

  get ready(): Record<string, number> {
    return Object.fromEntries(this.pool.state.templates.map(({ image, ready }) => [image, ready]));
  }

  /** Machines that run and belong to no sandbox. */
  get waiting(): number {
    return this.made.filter(({ isClaimed, isDisposed }) => !isClaimed && !isDisposed).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pool[Symbol.asyncDispose]();
  }
}

for (const count of [2, 10]) {
  test(`${count} templates used in turn each have a ready machine after the first round`, async () => {
    await using stand = new Stand();
    const templates = Array.from({ length: count }, (_, index) => `image-${index}`);
    for (const template of templates) assert.equal(stand.use(template), false);
    for (let round = 0; round < 3; round += 1) {
      await stand.full();
      for (const template of templates) assert.equal(stand.use(template), true, template);
    }
  });
}

test("a template that was used once has no machines after a half-life, and one in use keeps them", async () => {
  await using stand = new Stand();
  for (const template of ["once", "often", "often", "often", "often"]) {
    stand.use(template);
    await stand.full();
  }
  assert.deepEqual(stand.ready, { often: 2, once: 2 });
  stand.now = 660_000;
  await stand.pool.check();
  await stand.full();
  assert.deepEqual(stand.ready, { often: 2 });
  stand.now += 3_600_000;
  await stand.pool.check();
  assert.deepEqual([stand.pool.state.ready, stand.pool.state.wanted], [0, 0]);
  await eventually("idle machines have ended", () =>
    stand.made.filter(({ template }) => template === "once").every(({ isDisposed }) => isDisposed),
  );
});

test("machines stay within their memory, and a new template takes over from the second machine of another", async () => {
  await using stand = new Stand({ budgetMib: 2 * 768 });
  stand.use("a");
  await stand.full();
  assert.deepEqual(stand.ready, { a: 2 });
  stand.use("b");
  await stand.full();
  assert.deepEqual(stand.ready, { a: 1, b: 1 });
  stand.use("c");
  stand.use("c");
  stand.use("b");
  await stand.full();
  assert.deepEqual(stand.ready, { c: 1, b: 1, a: 0 });
  await eventually("the other machines have ended", () => stand.waiting === 2);
});

test("ready machines are given back for a sandbox that needs their memory, those in the least demand first", async () => {
  await using stand = new Stand({ perTemplate: 1 });
  for (const template of ["seldom", "often", "often"]) {
    stand.use(template);
    await stand.full();
  }
  // Nothing is made meanwhile: the host has no memory.
  stand.broken.add("seldom").add("often");
  assert.equal(await stand.pool.giveBack(), true);
  assert.deepEqual(stand.ready, { often: 1, seldom: 0 });
  assert.equal(await stand.pool.giveBack(), true);
  assert.equal(await stand.pool.giveBack(), false);
  assert.equal(stand.waiting, 0);
});

test("a machine that crashes or stops answering is replaced, and no sandbox gets it", async () => {
  await using stand = new Stand();
  stand.use("a");
  await stand.full();
  const [crashed, silent] = stand.made;
  crashed?.crash();
  if (silent !== undefined) silent.answers = false;
  await stand.pool.check();
  await stand.full();
  assert.deepEqual([crashed?.isDisposed, silent?.isDisposed, stand.made.length], [true, true, 4]);
  const [claimed] = stand.pool.claims("a");
  assert.ok(claimed === stand.made[2]);
});

test("a template that cannot be restored is tried again at its next use, and does not keep others waiting", async () => {
  await using stand = new Stand({ perTemplate: 1 });
  stand.broken.add("a");
  stand.use("a");
  stand.use("b");
  await eventually("b has a machine", () => stand.ready["b"] === 1);
  assert.deepEqual(stand.warnings, ["warn: cannot make a ready machine"]);
  stand.broken.delete("a");
  assert.equal(stand.use("a"), false);
  await stand.full();
  assert.deepEqual(stand.ready, { a: 1, b: 1 });
});

test("a template that was removed has no machines until a sandbox has made it again", async () => {
  await using stand = new Stand({ perTemplate: 1 });
  stand.use("a");
  await stand.full();
  stand.gone.add("a");
  assert.equal(stand.use("a"), true);
  await eventually("the template is forgotten", () => stand.pool.state.templates.length === 0);
  stand.gone.delete("a");
  assert.equal(stand.use("a"), false);
  await stand.full();
  assert.deepEqual(stand.ready, { a: 1 });
});

test("a worker without ready machines keeps no templates for them", async () => {
  await using stand = new Stand({ perTemplate: 0 });
  for (let count = 0; count < 3; count += 1) assert.equal(stand.use("a"), false);
  assert.deepEqual(stand.pool.state, { wanted: 0, ready: 0, templates: [] });
});

test("the end of the worker ends every waiting machine, also one that is being made", async () => {
  const stand = new Stand();
  stand.use("a");
  await stand.full();
  stand.use("b");
  await stand.pool[Symbol.asyncDispose]();
  assert.equal(stand.waiting, 0);
});
