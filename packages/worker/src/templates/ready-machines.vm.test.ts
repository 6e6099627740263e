import assert from "node:assert/strict";
import { test } from "node:test";
import { processesOf } from "#host/kill-by-path.ts";
import { machineDirectory, readEntries } from "#machine/journal.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { startTestHost, type TestHost } from "../testing/test-host.ts";

/** Sizes that two templates serve: the second one is too large for the memory that a machine of the first can get. */
const sizes = [{ memoryMib: 1024 }, { memoryMib: 8320 }];

async function full(host: TestHost): Promise<void> {
  const isFull = async (): Promise<boolean> => {
    const { ready, wanted } = await host.worker.readyMachines();
    return ready === wanted;
  };
  try {
    await eventually("every wanted machine is ready", isFull, { withinMs: 180_000, everyMs: 100 });
  } catch (cause) {
    throw new Error(`the worker logged ${JSON.stringify(host.logged)}`, { cause });
  }
}

test("two templates used in turn hit after the first round, in any shape, and a machine that died is replaced", async (t) => {
  await using host = await startTestHost({ readyMachines: 1 });
  for (const size of sizes) await host.worker.stopSandbox((await host.start(undefined, size)).id);
  await full(host);
  const { templates } = await host.worker.readyMachines();
  assert.deepEqual(
    templates.map(({ image, wanted, ready }) => ({ image, wanted, ready })),
    sizes.map(() => ({ image: "minimal", wanted: 1, ready: 1 })),
  );

  const shapes = [...sizes, { memoryMib: 512, vcpus: 2, workspaceMib: 30_720 }, { memoryMib: 8448 }];
  for (const shape of shapes) {
    const { id, spans } = await host.start(undefined, shape);
    const names = spans.map(({ name }) => name);
    assert.ok(names.includes("claim") && !names.includes("template"), `${JSON.stringify(shape)}: ${names.join(", ")}`);
    const milliseconds = spans.reduce((sum, span) => sum + span.milliseconds, 0);
    t.diagnostic(`${JSON.stringify(shape)} after ${Math.round(milliseconds)} ms`);
    assert.equal(await host.shell(id, "nproc"), String("vcpus" in shape ? shape.vcpus : 1));
    await host.worker.stopSandbox(id);
    await full(host);
  }

  const waiting = (await readEntries(host.dataDirectory)).filter(({ sandbox }) => sandbox === undefined);
  for (const { machineId } of waiting) {
    const [pid = assert.fail("a waiting machine has no process")] = await processesOf(
      machineDirectory(host.dataDirectory, machineId),
    );
    process.kill(pid, "SIGKILL");
  }
  await eventually("the killed machines are gone", async () => {
    const left = (await readEntries(host.dataDirectory)).map(({ machineId }) => machineId);
    return waiting.every(({ machineId }) => !left.includes(machineId));
  });
  await full(host);
  const { id, spans } = await host.start();
  assert.ok(spans.some(({ name }) => name === "claim"));
  assert.equal(await host.shell(id, "echo works"), "works");
});
