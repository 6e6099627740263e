import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Cgroups } from "./cgroups/cgroups.ts";
import { findCgroups } from "./cgroups/find-cgroups.ts";
import { inCgroups } from "./cgroups/in-cgroups.ts";

/** CAP_SYS_RESOURCE, which a container's root may lack. */
const mayLower = (effectiveCapabilities() & (1n << 24n)) !== 0n;
const found = await findCgroups();
const noMemory = "missing" in found ? found.missing.includes("memory") : true;
const skip = noMemory ? "this host has no cgroup to run out of memory in" : false;

/** A server that starts a machine in the same cgroup, which takes memory until the kernel kills something. */
const server = `
  import { spawn } from "node:child_process";
  import { once } from "node:events";
  import { inCgroups } from "${import.meta.resolve("./cgroups/in-cgroups.ts")}";
  import { protectFromOutOfMemory } from "${import.meta.resolve("./oom-score.ts")}";
  const isProtected = protectFromOutOfMemory();
  // As large as the machine, so that the scores alone decide.
  const held = Buffer.alloc(200 * 2 ** 20, 1);
  const [program, ...args] = inCgroups([], 500, [process.execPath, "--eval", "Buffer.alloc(400 * 2 ** 20, 1)"]);
  const machine = spawn(program, args, { stdio: "ignore" });
  const [, signal] = await once(machine, "exit");
  console.log(JSON.stringify({ isProtected, signal, held: held.length }));
`;

test("when memory runs out, the kernel kills a machine before its server", { skip }, async () => {
  assert.ok("missing" in found);
  const dataDirectory = await mkdtemp(join(tmpdir(), "osb-oom-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(dataDirectory, { recursive: true }));
  const cgroups = await Cgroups.open(found, dataDirectory);
  undo.defer(() => cgroups.close());
  // Stands for a host with little memory.
  const host = undo.use(await cgroups.create("host", { memoryBytes: 400 * 2 ** 20 }));
  const flags = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", server];
  const [program, ...args] = inCgroups(host.entrances, 0, [process.execPath, ...flags]);
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
  await once(child, "close");
  assert.deepEqual(JSON.parse(output), { isProtected: mayLower, signal: "SIGKILL", held: 200 * 2 ** 20 });
  assert.equal((await host.usage()).oomKills, 1);
});

test("an operator's score is kept", { skip: mayLower ? false : "this user may not lower a score" }, async () => {
  assert.equal(await scoreAfterProtection(-900), "true -900");
});

test(
  "a server without the right to lower its score keeps it",
  { skip: mayLower ? "this user may lower a score" : false },
  async () => {
    assert.equal(await scoreAfterProtection(0), "false 0");
  },
);

test(
  "a server that may lower its score does",
  { skip: mayLower ? false : "this user may not lower a score" },
  async () => {
    assert.equal(await scoreAfterProtection(0), "true -500");
  },
);

function effectiveCapabilities(): bigint {
  const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  return BigInt(`0x${mask}`);
}

/** Whether a process that started with `score` is protected, and its score then. */
async function scoreAfterProtection(score: number): Promise<string> {
  const script = `
    import { readFileSync } from "node:fs";
    import { protectFromOutOfMemory } from "${import.meta.resolve("./oom-score.ts")}";
    console.log(protectFromOutOfMemory(), readFileSync("/proc/self/oom_score_adj", "utf8").trim());
  `;
  const flags = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", script];
  const [program, ...args] = inCgroups([], score, [process.execPath, ...flags]);
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
  await once(child, "close");
  return output.trim();
}
