import assert from "node:assert/strict";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import * as fc from "fast-check";
import { runCommand } from "#host/run-command.ts";
import { createOverlay } from "./qcow2.ts";

const gib = 2 ** 30;

async function examine(verb: "check" | "info", file: string): Promise<object> {
  return JSON.parse(await runCommand(verb, ["qemu-img", verb, "-f", "qcow2", "--output=json", file])) as object;
}

test("qemu-img accepts an overlay of any size, and reports the size that was asked for", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-qcow2-"));
  t.after(() => rm(directory, { recursive: true }));
  // Sectors of 512 bytes. The edges are sizes at which a table gets another entry or cluster.
  const sectors = fc.integer({ min: 1, max: (5000 * gib) / 512 });
  const edges = [1, gib / 2, 512 * 2 ** 20, 512 * 2 ** 20 + 512, 20 * gib, 256 * gib, 4096 * gib, 4096 * gib + 512];
  let count = 0;
  await fc.assert(
    fc.asyncProperty(sectors, async (number) => {
      const file = join(directory, `${(count += 1)}.qcow2`);
      const bytes = number * 512;
      await createOverlay(file, bytes);
      const check = await examine("check", file);
      assert.partialDeepStrictEqual(check, { "check-errors": 0, format: "qcow2" });
      assert.equal("leaks" in check || "corruptions" in check, false);
      assert.partialDeepStrictEqual(await examine("info", file), { "virtual-size": bytes });
      assert.ok((await stat(file)).blocks * 512 <= 4 * 65_536, "an empty overlay takes no more than its tables");
    }),
    { numRuns: 20, examples: edges.map((bytes): [number] => [Math.ceil(bytes / 512)]) },
  );
});

test("an overlay returns what was written to it, and the rest from its base", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-qcow2-"));
  t.after(() => rm(directory, { recursive: true }));
  const [base, overlay] = [join(directory, "base.raw"), join(directory, "overlay.qcow2")];
  await runCommand("make a base", ["qemu-img", "create", "-q", "-f", "raw", base, "64M"]);
  const io = async (image: string, ...commands: string[]): Promise<string> =>
    await runCommand("qemu-io", ["qemu-io", ...commands.flatMap((command) => ["-c", command]), "--image-opts", image]);
  await io(`driver=raw,file.filename=${base}`, "write -P 1 0 64M");
  await createOverlay(overlay, 64 * 2 ** 20);
  const chain = `driver=qcow2,file.filename=${overlay},backing.driver=raw,backing.file.filename=${base}`;
  const output = await io(chain, "write -P 2 1M 3M", "read -P 1 0 1M", "read -P 2 1M 3M", "read -P 1 4M 60M");
  assert.doesNotMatch(output, /verification failed/);
  assert.partialDeepStrictEqual(await examine("check", overlay), { "check-errors": 0 });
});

test("an existing file is not overwritten", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-qcow2-"));
  t.after(() => rm(directory, { recursive: true }));
  const file = join(directory, "overlay.qcow2");
  await createOverlay(file, gib);
  await assert.rejects(createOverlay(file, gib), { code: "EEXIST" });
});
