import assert from "node:assert/strict";
import { test } from "node:test";
import { maxHotplugMib } from "./hotplug.ts";
import { templateMemoryMib, templateShapeOf } from "./template-shape.ts";

test("one template serves every size that its machines can reach, and few further ones the larger sizes", () => {
  const templates = new Set<number>();
  for (let memoryMib = 256; memoryMib <= 65_536; memoryMib += 128) {
    const templateMib = templateMemoryMib(memoryMib, 1024);
    assert.ok(memoryMib <= templateMib + maxHotplugMib(templateMib), `${memoryMib} MiB`);
    if (memoryMib <= 8192) assert.equal(templateMib, 1024);
    templates.add(templateMib);
  }
  assert.deepEqual([...templates], [1024, 2048, 4096, 8192]);
});

test("a hypervisor that cannot reshape a machine has a template for each shape", () => {
  const shape = { vcpus: 2, memoryMib: 512, workspaceMib: 30_720 };
  assert.deepEqual(
    templateShapeOf(shape, 1024, { enlargesDisks: false, hotplugsMemory: false, sparesProcessors: false }),
    shape,
  );
  assert.deepEqual(
    templateShapeOf(shape, 1024, { enlargesDisks: true, hotplugsMemory: true, sparesProcessors: true }),
    {
      vcpus: 8,
      memoryMib: 1024,
      workspaceMib: 20_480,
    },
  );
});
