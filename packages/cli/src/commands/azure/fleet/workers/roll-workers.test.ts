import assert from "node:assert/strict";
import { suite, test } from "node:test";
import type { MemberReport } from "@opensandbox/server/fleet.ts";
import { ArmClient } from "../../resource-manager/arm-client.ts";
import { FakeResourceManager, subscription } from "../../testing/fake-resource-manager.ts";
import { scaleWorkers } from "../scale-workers.ts";
import { type RollingWorker, type RollOperator, rollWorkers } from "./roll-workers.ts";

const group = `/subscriptions/${subscription}/resourceGroups/lab/providers/Microsoft.Compute`;
const set = `${group}/virtualMachineScaleSets/lab-workers`;
const [oldImage, newImage] = [`${group}/images/lab-image-0-1-0`, `${group}/images/lab-image-0-2-0`];

/** The server of a fleet whose workers are the machines of the scale set, each with two sandboxes to move. */
class FakeFleet implements RollOperator {
  readonly events: string[] = [];
  /** Hosts whose worker does not answer. */
  readonly silent = new Set<string>();
  readonly #azure: FakeResourceManager;
  /** Sandboxes that are left on drained hosts. */
  readonly #drained = new Map<string, number>();
  readonly #rows = new Set<string>();

  constructor(azure: FakeResourceManager) {
    this.#azure = azure;
  }

  async listWorkers(): Promise<readonly RollingWorker[]> {
    const machines = this.#azure.machinesOf(set);
    for (const host of machines) this.#rows.add(host);
    const workers = [...this.#rows].map((host): RollingWorker => {
      const left = this.#drained.get(host);
      if (left !== undefined) this.#drained.set(host, Math.max(0, left - 1));
      const isUp = machines.includes(host) && !this.silent.has(host);
      return {
        ...{ id: `wk-${host}`, url: `https://${host}:8443`, state: isUp ? "up" : "silent" },
        ...{ draining: left !== undefined, ...(left === undefined ? {} : { left: { sandboxes: left, snapshots: 0 } }) },
      };
    });
    return await Promise.resolve(workers);
  }

  async drainWorker(id: string): Promise<void> {
    const host = id.slice("wk-".length);
    const accepting = this.#azure.machinesOf(set).filter((each) => each !== host && !this.#drained.has(each));
    this.events.push(await Promise.resolve(`drain ${id} beside ${accepting.length}`));
    this.#drained.set(host, 2);
  }

  async removeWorker(id: string): Promise<void> {
    const host = id.slice("wk-".length);
    assert.equal(this.#drained.get(host), 0, `${id} was removed with sandboxes`);
    assert.ok(!this.#azure.machinesOf(set).includes(host), `${id} was removed before its machine`);
    this.events.push(await Promise.resolve(`remove ${id}`));
    this.#rows.delete(host);
  }
}

async function begin(options: Parameters<typeof FakeResourceManager.start>[0] = {}, hosts = ["lab-0", "lab-1"]) {
  const azure = await FakeResourceManager.start(options);
  for (const image of [oldImage, newImage]) azure.add(image, "microsoft.compute/images");
  azure.addScaleSet(set, hosts, oldImage);
  const fleet = new FakeFleet(azure);
  const token = async (): Promise<string> => await Promise.resolve("token-of-the-test");
  const arm = new ArmClient({ endpoint: azure.endpoint, token });
  const notes: string[] = [];
  const onNote = { current: (): void => undefined };
  const note = (text: string): void => {
    notes.push(text);
    onNote.current();
  };
  const target = { arm, subscription, name: "lab" };
  const upgrade = async (signal = AbortSignal.timeout(20_000)): Promise<number> => {
    const rolling = { ...target, operator: fleet, image: newImage, customData: "I2Nsb3VkLWNvbmZpZwo=", pollMs: 1 };
    return await rollWorkers({ ...rolling, note }, signal);
  };
  return {
    azure,
    fleet,
    target,
    notes,
    onNote,
    upgrade,
    [Symbol.asyncDispose]: async () => await azure[Symbol.asyncDispose](),
  };
}

function bodyOf(azure: FakeResourceManager) {
  return azure.bodyOf("lab-workers") as { sku: { capacity: number }; tags: Record<string, string> };
}

suite("a rolling upgrade of the workers", () => {
  test("replaces each machine after its worker was drained, and the number of workers never falls", async () => {
    await using world = await begin();
    const { azure, fleet, upgrade } = world;
    assert.equal(await upgrade(), 2);
    assert.deepEqual(azure.machinesOf(set), ["lab-000002", "lab-000003"]);
    assert.deepEqual(azure.imagesOf(set), [newImage, newImage]);
    assert.deepEqual(fleet.events, [
      "drain wk-lab-0 beside 2",
      "remove wk-lab-0",
      "drain wk-lab-1 beside 2",
      "remove wk-lab-1",
    ]);
    assert.deepEqual([bodyOf(azure).sku.capacity, bodyOf(azure).tags], [2, { opensandbox: "lab" }]);
  });

  test("changes nothing when every worker has the image", async () => {
    await using world = await begin();
    await world.upgrade();
    const before = world.azure.requests.length;
    assert.equal(await world.upgrade(), 0);
    assert.ok(world.azure.requests.slice(before).every((request) => request.startsWith("GET ")));
  });

  test("continues after its connection was cut at each call, with as many workers as before", async () => {
    await using world = await begin();
    const { azure, fleet, upgrade } = world;
    azure.cutsEach = true;
    let cuts = 0;
    for (let isWhole = false; !isWhole;) {
      isWhole = await upgrade().then(
        () => true,
        (error: unknown) => {
          assert.match((error as Error).message, /cannot reach Azure/);
          cuts += 1;
          return false;
        },
      );
    }
    assert.ok(cuts >= 5, `${cuts} calls were cut`);
    assert.deepEqual(azure.imagesOf(set), [newImage, newImage]);
    assert.deepEqual([bodyOf(azure).sku.capacity, bodyOf(azure).tags], [2, { opensandbox: "lab" }]);
    assert.deepEqual(
      fleet.events.filter((event) => event.startsWith("drain")),
      ["drain wk-lab-0 beside 2", "drain wk-lab-1 beside 2"],
    );
  });

  test("continues after an interrupt at each of its notes", async () => {
    await using world = await begin();
    let interrupts = 0;
    for (let isWhole = false; !isWhole; interrupts += 1) {
      const interrupt = new AbortController();
      const seen = world.notes.length + interrupts;
      world.onNote.current = () => {
        if (world.notes.length > seen) interrupt.abort(new Error("interrupted"));
      };
      isWhole = await world.upgrade(interrupt.signal).then(
        () => true,
        () => false,
      );
    }
    assert.ok(interrupts >= 5, `${interrupts} runs`);
    assert.deepEqual(world.azure.imagesOf(set), [newImage, newImage]);
    assert.deepEqual([bodyOf(world.azure).sku.capacity, bodyOf(world.azure).tags], [2, { opensandbox: "lab" }]);
  });

  test("without quota for one more machine, each old one goes first", async () => {
    await using world = await begin({ maxMachines: 2 });
    const { azure, fleet, notes, upgrade } = world;
    assert.equal(await upgrade(), 2);
    assert.deepEqual(azure.imagesOf(set), [newImage, newImage]);
    assert.deepEqual(
      fleet.events.filter((event) => event.startsWith("drain")),
      ["drain wk-lab-0 beside 1", "drain wk-lab-1 beside 1"],
    );
    assert.ok(
      notes.some((note) => /no room for one more machine.*a quota of 2 machines/.test(note)),
      notes.join("\n"),
    );
    assert.equal(bodyOf(azure).sku.capacity, 2);
  });

  test("a new machine that Azure cannot place is deleted, and the old ones go first", async () => {
    await using world = await begin({ failing: (host) => host === "lab-000002" });
    const { azure, upgrade } = world;
    assert.equal(await upgrade(), 2);
    assert.deepEqual(azure.machinesOf(set), ["lab-000003", "lab-000004"]);
  });

  test("the only worker is not drained without another one", async () => {
    await using world = await begin({ maxMachines: 1 }, ["lab-0"]);
    await assert.rejects(world.upgrade(), /no other worker can take the sandboxes of lab-0: ask for quota/);
    assert.deepEqual([world.azure.machinesOf(set), world.fleet.events], [["lab-0"], []]);
  });

  test("a worker that does not answer keeps its machine, and the error says what to do", async () => {
    await using world = await begin();
    world.fleet.silent.add("lab-0");
    await assert.rejects(world.upgrade(), /worker wk-lab-0 on lab-0 does not answer.*repair its host, or stop it/);
    assert.ok(world.azure.machinesOf(set).includes("lab-0"));
    world.fleet.silent.clear();
    assert.equal(await world.upgrade(), 2);
    assert.equal(bodyOf(world.azure).sku.capacity, 2);
  });

  test("holds the autoscaling until it has ended", async () => {
    await using world = await begin();
    world.fleet.silent.add("lab-0");
    await assert.rejects(world.upgrade());
    const workers = (): readonly MemberReport[] => {
      throw new Error("the autoscaling looked at the workers");
    };
    const unused = async (): Promise<void> => await Promise.reject(new Error("the autoscaling changed a worker"));
    const operator = {
      ...{ listWorkers: async () => await Promise.resolve(workers()), drainWorker: unused },
      ...{ admitWorker: unused, removeWorker: unused },
    };
    const step = await scaleWorkers({ ...world.target, operator, min: 1, max: 5 }, AbortSignal.timeout(20_000));
    assert.deepEqual(step, { kind: "none", why: "an upgrade replaces the workers" });
  });
});
