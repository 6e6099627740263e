import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { killProcessesOf, processesOf } from "./kill-by-path.ts";

/** A process whose command line ends with `argument`. */
async function processNaming(argument: string): Promise<ChildProcess> {
  const child = spawn("sh", ["-c", "echo up; read -r _", "sh", argument], { stdio: ["pipe", "pipe", "inherit"] });
  await once(child.stdout, "data");
  return child;
}

test("only processes that name a path below the directory are killed", async (t) => {
  const directory = `/tmp/osb-kill-${process.pid}/machines/m-1`;
  const inside = [await processNaming(`${directory}/qmp.sock`), await processNaming(`path=${directory}/a,id=b`)];
  const outside = [await processNaming(`${directory}0/qmp.sock`), await processNaming(directory)];
  t.after(() => outside.forEach((child) => child.kill()));
  const pids = (await processesOf(directory)).toSorted((a, b) => a - b);
  assert.deepEqual(
    pids,
    inside.map(({ pid }) => pid),
  );
  const ended = inside.map((child) => once(child, "exit"));
  await killProcessesOf(directory);
  assert.deepEqual(await processesOf(directory), []);
  for (const exit of ended) assert.equal(((await exit) as [unknown, string])[1], "SIGKILL");
  for (const { exitCode, signalCode } of outside) assert.deepEqual([exitCode, signalCode], [null, null]);
});

test("without such a process it resolves at once", async () => {
  await killProcessesOf("/nonexistent/machine");
});
