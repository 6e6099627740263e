import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { processState } from "./process-state.ts";

test("the state of a process says whether it is stopped and how long it has computed", async () => {
  const child = spawn("sh", ["-c", "while :; do :; done"], { stdio: "ignore" });
  const pid = child.pid!;
  try {
    const busy = await eventually("it has computed", () => {
      const { busyMs = 0 } = processState(pid) ?? {};
      return Promise.resolve(busyMs > 50 ? busyMs : undefined);
    });
    assert.equal(processState(pid)?.isStopped, false);
    child.kill("SIGSTOP");
    await eventually("it is stopped", () => Promise.resolve(processState(pid)?.isStopped));
    const { busyMs } = processState(pid)!;
    assert.ok(busyMs >= busy);
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal(processState(pid)?.busyMs, busyMs);
  } finally {
    child.kill("SIGKILL");
  }
  await once(child, "exit");
  assert.equal(processState(pid), undefined);
});
