import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { runCommand } from "#host/run-command.ts";
import { createOverlay } from "./qcow2.ts";

for (const gib of [1, 20, 256, 5000]) {
  test(`qemu-img finds nothing wrong with an overlay of ${gib} GiB`, async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "osb-qcow2-"));
    t.after(() => rm(directory, { recursive: true }));
    const file = join(directory, "overlay.qcow2");

    await createOverlay(file, gib * 2 ** 30);

    const check = JSON.parse(
      await runCommand("check", ["qemu-img", "check", "-f", "qcow2", "--output=json", file]),
    ) as object;
    assert.partialDeepStrictEqual(check, { "check-errors": 0, format: "qcow2" });
    assert.equal("leaks" in check || "corruptions" in check, false);
    const info = JSON.parse(
      await runCommand("info", ["qemu-img", "info", "-f", "qcow2", "--output=json", file]),
    ) as object;
    assert.partialDeepStrictEqual(info, { "virtual-size": gib * 2 ** 30 });
  });
}
