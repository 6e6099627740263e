import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { processesOf } from "#host/kill-by-path.ts";
import { processMapping } from "./guest-memory.ts";

async function started(t: TestContext, program: string, ...args: readonly string[]): Promise<number> {
  const child: ChildProcess = spawn(program, ["-c", "echo up; read -r _", "sh", ...args], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  await once(child.stdout ?? assert.fail("no output"), "data", { signal: AbortSignal.timeout(30_000) });
  return child.pid ?? assert.fail("the process did not start");
}

test("a process that only names a file of a machine is not taken for the machine", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-mapping-"));
  t.after(() => rm(directory, { recursive: true }));
  // A process maps its own program, as QEMU maps the memory base.
  const base = join(directory, "memory.base");
  await copyFile("/bin/sh", base);
  const viewers = [await started(t, "/bin/sh", `${directory}/qemu.log`), await started(t, "/bin/sh", base)];
  assert.equal(await processMapping(base, viewers), undefined);
  const machine = await started(t, base);
  const named = await processesOf(directory);
  assert.deepEqual(
    named.toSorted((a, b) => a - b),
    [...viewers, machine].toSorted((a, b) => a - b),
  );
  assert.equal(await processMapping(base, named), machine);
});
