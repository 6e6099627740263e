import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { probeOnce, type ProbeResult } from "./probe-accelerator.ts";

const host = { program: "qemu", version: "10.0.2", accelerator: "kvm", processor: "a" } as const;

/** A probe that counts its runs and ends with the results in turn. */
function counted(...results: ProbeResult[]): { runs: number; readonly probe: () => Promise<ProbeResult> } {
  const counter = {
    runs: 0,
    probe: async () => {
      counter.runs += 1;
      return await Promise.resolve(results[counter.runs - 1] ?? { works: true, detail: "ran" });
    },
  };
  return counter;
}

async function makeDirectory() {
  const path = await mkdtemp(join(tmpdir(), "osb-probe-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true }) };
}

test("a host is probed once, and again with another QEMU or processor", async () => {
  await using directory = await makeDirectory();
  const counter = counted();
  await probeOnce(host, directory.path, counter);
  const again = await probeOnce(host, directory.path, counter);
  assert.equal(counter.runs, 1);
  assert.match(again.detail, /^ran, at \d{4}-/);
  await probeOnce({ ...host, version: "10.1.0" }, directory.path, counter);
  await probeOnce({ ...host, processor: "b" }, directory.path, counter);
  assert.equal(counter.runs, 3);
  const kernel = { file: "/boot/vmlinux", elf: Buffer.from("kernel"), initramfs: Buffer.from(""), greeting: "" };
  for (const _ of [1, 2]) await probeOnce({ ...host, processor: "b" }, directory.path, { ...counter, kernel });
  assert.equal(counter.runs, 4);
});

test("a failed probe is run again at the next start, so that a remedy takes effect", async () => {
  await using directory = await makeDirectory();
  const counter = counted({ works: false, detail: "refused" });
  assert.deepEqual(await probeOnce(host, directory.path, counter), { works: false, detail: "refused" });
  assert.equal((await probeOnce(host, directory.path, counter)).works, true);
  assert.equal(counter.runs, 2);
});

test("a damaged record of a probe is replaced", async () => {
  await using directory = await makeDirectory();
  await writeFile(join(directory.path, "accelerator-probe.json"), '{"key":');
  const counter = counted();
  for (const _ of [1, 2]) assert.equal((await probeOnce(host, directory.path, counter)).works, true);
  assert.equal(counter.runs, 1);
});
