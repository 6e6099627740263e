import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { MemberReport } from "@opensandbox/server/fleet.ts";
import { runForTest } from "../../../testing/test-host.ts";
import { ArmClient } from "../resource-manager/arm-client.ts";
import { FakeResourceManager, subscription } from "../testing/fake-resource-manager.ts";
import { decideScale, type ScaleState } from "./decide-scale.ts";
import { scaleWorkers } from "./scale-workers.ts";

/** @param used the committed part of the worker's 100 MiB */
function worker(id: string, used: number, more: Partial<MemberReport> = {}): MemberReport {
  return {
    ...{ id, url: `https://${id}:8443`, state: "up", cordoned: false, draining: false, hypervisor: "qemu" },
    ...{ totalMemoryMib: 100, freeMemoryMib: 100 - used, sandboxes: used === 0 ? 0 : 1 },
    ...more,
  };
}

function stepOf(workers: readonly MemberReport[], state: Partial<ScaleState> = {}): string {
  const step = decideScale({ workers, capacity: workers.length, min: 2, max: 10, ...state });
  return "worker" in step ? `${step.kind} ${step.worker.id}` : "to" in step ? `${step.kind} ${step.to}` : step.kind;
}

const drained = { draining: true, cordoned: true };

suite("the number of workers", () => {
  test("grows until three fifths of the memory are committed, and not beyond the maximum", () => {
    assert.equal(stepOf([worker("a", 76), worker("b", 76)]), "grow 3");
    assert.equal(stepOf([worker("a", 100), worker("b", 100), worker("c", 100), worker("d", 100)]), "grow 7");
    assert.equal(stepOf([worker("a", 100), worker("b", 100)], { max: 3 }), "grow 3");
    assert.equal(stepOf([worker("a", 100), worker("b", 100)], { max: 2 }), "none");
  });

  test("waits for machines that boot", () => {
    assert.equal(stepOf([worker("a", 90), worker("b", 90)], { capacity: 4 }), "none");
    assert.equal(stepOf([worker("a", 0), worker("b", 0), worker("c", 0)], { capacity: 4 }), "none");
    assert.equal(stepOf([], { capacity: 2 }), "none");
  });

  test("reaches its minimum also without a worker that answers", () => {
    assert.equal(stepOf([], { capacity: 0 }), "grow 2");
  });

  test("shrinks by the least used worker when the others are at ease without it, and not below the minimum", () => {
    assert.equal(stepOf([worker("a", 40), worker("b", 10), worker("c", 30)]), "drain b");
    assert.equal(stepOf([worker("a", 40), worker("b", 20), worker("c", 40)]), "none");
    assert.equal(stepOf([worker("a", 10), worker("b", 0)]), "none");
    assert.equal(stepOf([worker("a", 10), worker("b", 0)], { min: 1 }), "drain b");
  });

  test("keeps a worker that an operator has cordoned, and does not count its memory", () => {
    assert.equal(stepOf([worker("a", 80), worker("b", 80), worker("c", 0, { cordoned: true })]), "grow 4");
    assert.equal(stepOf([worker("a", 0, { cordoned: true }), worker("b", 40), worker("c", 40)], { min: 1 }), "none");
  });

  test("drains one worker at a time, removes it when it has nothing, and takes it back when it is needed", () => {
    const left = { sandboxes: 1, snapshots: 0 };
    assert.equal(stepOf([worker("a", 10), worker("b", 10), worker("c", 10, { ...drained, left })]), "none");
    assert.equal(stepOf([worker("a", 90), worker("b", 90), worker("c", 10, { ...drained, left })]), "admit c");
    const nothing = { ...drained, left: { sandboxes: 0, snapshots: 0 } };
    assert.equal(stepOf([worker("a", 90), worker("b", 90), worker("c", 0, nothing)]), "remove c");
    assert.equal(
      stepOf([worker("a", 90), worker("b", 90), worker("c", 0, { ...nothing, state: "silent" })]),
      "remove c",
    );
  });
});

suite("a step", () => {
  const set = `/subscriptions/${subscription}/resourceGroups/lab/providers/Microsoft.Compute/virtualMachineScaleSets/lab-workers`;

  async function makeStep(
    azure: FakeResourceManager,
    workers: readonly MemberReport[],
    isGone = true,
  ): Promise<string[]> {
    const calls: string[] = [];
    const record = async (call: string): Promise<void> => void calls.push(await Promise.resolve(call));
    const operator = {
      listWorkers: async () => await Promise.resolve(workers),
      drainWorker: async (id: string) => await record(`drain ${id}`),
      admitWorker: async (id: string) => await record(`admit ${id}`),
      removeWorker: async (id: string) => {
        if (!isGone) {
          const details = { resource: "worker", state: "up", allowed: ["silent"] } as const;
          throw new SandboxError("wrong_state", `worker ${id} answers`, details);
        }
        await record(`remove ${id}`);
      },
    };
    const token = async (): Promise<string> => await Promise.resolve("token-of-the-test");
    const arm = new ArmClient({ endpoint: azure.endpoint, token });
    await scaleWorkers({ arm, operator, subscription, name: "lab", min: 1, max: 5 }, AbortSignal.timeout(20_000));
    return calls;
  }

  test("changes the capacity of the scale set, and nothing else of it", async () => {
    await using azure = await FakeResourceManager.start();
    azure.addScaleSet(set, ["lab-0", "lab-1"]);
    assert.deepEqual(await makeStep(azure, [worker("lab-0", 90), worker("lab-1", 90)]), []);
    assert.deepEqual(azure.bodyOf("lab-workers")?.["sku"], {
      name: "Standard_D48as_v6",
      tier: "Standard",
      capacity: 3,
    });
  });

  test("drains a worker on the server of the fleet", async () => {
    await using azure = await FakeResourceManager.start();
    azure.addScaleSet(set, ["lab-0", "lab-1"]);
    assert.deepEqual(await makeStep(azure, [worker("lab-0", 30), worker("lab-1", 10)]), ["drain lab-1"]);
  });

  test("deletes the machine of the worker that is empty, and no other; the row goes when the worker is silent", async () => {
    await using azure = await FakeResourceManager.start();
    azure.addScaleSet(set, ["lab-0", "lab-1"]);
    const workers = [worker("lab-0", 30), worker("lab-1", 0, { ...drained, left: { sandboxes: 0, snapshots: 0 } })];
    assert.deepEqual(await makeStep(azure, workers, false), []);
    assert.deepEqual(azure.machinesOf(set), ["lab-0"]);
    assert.deepEqual(await makeStep(azure, workers), ["remove lab-1"]);
    assert.deepEqual(azure.machinesOf(set), ["lab-0"]);
  });
});

test("fleet scale without a subscription is refused", async () => {
  const { code, stderr } = await runForTest(["azure", "fleet", "scale"]);
  assert.equal(code, 2);
  assert.match(stderr, /--subscription is needed/);
});
