import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { loadOrder } from "./initramfs.ts";

// In depmod's format: a module and its dependencies, the last one to be loaded first.
const index = `kernel/net/core/failover.ko.xz:
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz
kernel/drivers/char/hw_random/virtio-rng.ko.xz:
`;

test("a driver's dependencies are loaded before it", () => {
  assert.deepEqual(loadOrder(index, "virtio_net"), [
    "kernel/net/core/failover.ko.xz",
    "kernel/drivers/net/net_failover.ko.xz",
    "kernel/drivers/net/virtio_net.ko.xz",
  ]);
});

test("a module's name may be written with - or _", () => {
  assert.deepEqual(loadOrder(index, "virtio_rng"), ["kernel/drivers/char/hw_random/virtio-rng.ko.xz"]);
});

test("the error names a driver that the kernel does not have", () => {
  assert.throws(
    () => loadOrder(index, "virtio"),
    (error) => isSandboxError(error, "internal") && error.message.endsWith("virtio"),
  );
});

test("in any graph of dependencies, no module is loaded before its dependencies", () => {
  // Module n depends only on modules before it, so the graph has no cycle.
  const graphs = fc.array(fc.array(fc.nat({ max: 30 }), { maxLength: 4 }), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(graphs, (choices) => {
      const direct = choices.map((picks, module) => new Set(module === 0 ? [] : picks.map((pick) => pick % module)));
      const order = (module: number): number[] => [
        ...new Set([...direct[module]!].flatMap((needed) => [...order(needed), needed])),
      ];
      const text = direct
        .map(
          (_, module) =>
            `a/m${module}.ko: ${order(module)
              .toReversed()
              .map((needed) => `a/m${needed}.ko`)
              .join(" ")}`,
        )
        .join("\n");
      const last = direct.length - 1;
      const loaded = loadOrder(text, `m${last}`).map((path) => Number(/\d+/.exec(path)?.[0]));
      assert.equal(loaded.at(-1), last);
      for (const [position, module] of loaded.entries()) {
        for (const needed of direct[module]!) assert.ok(loaded.indexOf(needed) < position && loaded.includes(needed));
      }
    }),
  );
});
