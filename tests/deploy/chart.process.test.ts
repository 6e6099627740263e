import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { startFleetWorld } from "../fleet/fleet-world.ts";
import { type Manifest, podsOf } from "./chart-files.ts";

const run = promisify(execFile);
const program = join(import.meta.dirname, "../../packages/cli/src/main.ts");
/** A hook runs up to three commands, which start within seconds, or within minutes on a crowded host. */
const hookMs = 240_000;

test("the hooks of the chart drain a worker before its pod ends, and let it in again before the next pod starts", async () => {
  await using undo = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "osb-chart-"));
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  const command = `exec '${process.execPath}' --disable-warning=ExperimentalWarning '${program}' "$@"`;
  await writeFile(join(directory, "osb"), `#!/bin/sh\n${command}\n`, { mode: 0o755 });
  await using world = await startFleetWorld({
    workers: 1,
    workerEnv: { OPENSANDBOX_OBJECT_STORE: `file://${directory}/store` },
  });
  const environment = world.workerEnvironment(0);
  const runHook = async ([file = "", ...args]: readonly string[]): Promise<void> => {
    const env = { ...process.env, ...environment, PATH: `${directory}:${process.env["PATH"]}` };
    await run(file, args, { env, timeout: hookMs });
  };
  const { pod } = podsOf("minimal").find(({ kind }) => kind === "DaemonSet")!;
  const admit: readonly string[] = pod.spec.initContainers.find(({ name }: Manifest) => name === "admit").command;
  const preStop: readonly string[] = pod.spec.containers[0].lifecycle.preStop.exec.command;
  const dataDirectory = environment["OPENSANDBOX_DATA_DIR"]!;
  const id = (await readFile(join(dataDirectory, "fleet-worker"), "utf8")).trim();
  const member = async () => (await world.report()).find((each) => each.id === id) ?? assert.fail(`no worker ${id}`);

  const create = async (): Promise<number> =>
    (await world.call("POST", "/sandboxes", { templateID: "minimal", timeout: 0 })).status;
  const mark = join(dataDirectory, "drained-with-pod");

  await runHook(admit);
  assert.equal((await member()).cordoned, false);
  await runHook(preStop);
  const { draining, left } = await member();
  assert.deepEqual({ draining, left }, { draining: true, left: { sandboxes: 0, snapshots: 0 } });
  assert.equal(await create(), 503);
  assert.ok(existsSync(mark));

  await runHook(admit);
  assert.equal((await member()).cordoned, false);
  assert.ok(!existsSync(mark));
  assert.equal(await create(), 201);

  await world.cordon(id, true);
  await runHook(admit);
  assert.equal((await member()).cordoned, true, "a pod that ended without a drain leaves the cordon of an operator");
});
