import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  killMachineProcesses,
  killProcessesOf,
  machineEnvironment,
  machineProcessesOf,
  processesOf,
} from "./kill-by-path.ts";

/** A process whose command line ends with `argument`. */
async function processNaming(argument: string, { program = "sh", env = {} } = {}): Promise<ChildProcess> {
  const child = spawn(program, ["-c", "echo up; read -r _", "sh", argument], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { PATH: process.env["PATH"], ...env },
  });
  await once(child.stdout, "data", { signal: AbortSignal.timeout(30_000) });
  return child;
}

test("a process that only names a machine's directory stays when the machine's processes are killed", async (t) => {
  const machines = await mkdtemp(join(tmpdir(), "osb-kill-"));
  t.after(() => rm(machines, { recursive: true }));
  const directory = join(machines, "m-1");
  await mkdir(directory);
  // A process maps its own program, as the QEMU of an earlier version maps the memory base.
  const base = join(directory, "memory.base");
  await copyFile("/bin/sh", base);
  const machine = [
    await processNaming(`${directory}/qmp.sock`, { env: machineEnvironment(directory) }),
    await processNaming(`${directory}/qmp.sock`, { program: base }),
  ];
  const bystanders = [
    await processNaming(`${directory}/qemu.log`),
    await processNaming(`${directory}/qemu.log`, { env: machineEnvironment(`${directory}0`) }),
    await processNaming("elsewhere", { env: machineEnvironment(directory) }),
  ];
  t.after(() => bystanders.forEach((child) => child.kill("SIGKILL")));
  const byNumber = (a = 0, b = 0): number => a - b;
  assert.deepEqual(
    (await machineProcessesOf(directory)).toSorted(byNumber),
    machine.map(({ pid }) => pid).toSorted(byNumber),
  );

  const ended = machine.map((child) => once(child, "exit", { signal: AbortSignal.timeout(30_000) }));
  await killMachineProcesses(directory);

  for (const exit of ended) assert.equal(((await exit) as [unknown, string])[1], "SIGKILL");
  for (const { exitCode, signalCode } of bystanders) assert.deepEqual([exitCode, signalCode], [null, null]);
});

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

test("killing the processes of a machine that has none resolves at once", async () => {
  await killProcessesOf("/nonexistent/machine");
});
