import { setTimeout as sleep } from "node:timers/promises";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Sandbox } from "./client.ts";
import { journalOf, type OurServer, processesOf } from "./server.ts";

/** Kills the sandbox on disposal, or earlier. */
export function killed(sandbox: Sandbox): AsyncDisposable & { now(): Promise<void> } {
  let left = true;
  const now = async (): Promise<void> => {
    if (!left) return;
    left = false;
    await sandbox.kill();
  };
  return { now, [Symbol.asyncDispose]: now };
}

/**
 * Runs the command that costs nothing, the same one in every figure with a command. @throws when it does not succeed
 */
export async function ranTrue(sandbox: Sandbox): Promise<void> {
  await ran(sandbox, "true");
}

/** Runs a line of the shell and returns its output. @throws when its exit code is not 0 */
export async function ran(sandbox: Sandbox, line: string): Promise<string> {
  const { exitCode, stdout, stderr } = await sandbox.exec.run(line, { timeout: 600 });
  if (exitCode !== 0) throw new Error(`${line}: exit code ${exitCode}\n${stderr}`);
  return stdout;
}

/** Copies a program into the sandbox's home and returns its path there. */
export async function installed(sandbox: Sandbox, name: string, file: string): Promise<string> {
  const path = `/home/sandbox/${name}`;
  await sandbox.files.write(path, await readFile(file));
  await ran(sandbox, `chmod +x ${path}`);
  return path;
}

/** A machine that has been idle for this long is ready; one that is being restored is busy all the time. */
const quietMs = 500;

/** Waits until the server has `size` ready machines. @throws when that takes too long */
export async function machinesReady(server: OurServer, size: number, signal: AbortSignal): Promise<void> {
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(300_000)]);
  let last = "";
  for (let quietSince = performance.now(); ; await sleep(50, undefined, { signal: deadline })) {
    const waiting = (await journalOf(server)).filter(({ sandbox }) => sandbox === undefined);
    const times = await Promise.all(
      waiting.map(({ machineId }) => processorTime(join(server.dataDirectory, "machines", machineId))),
    );
    const state = JSON.stringify(times);
    const ready = waiting.length >= size && times.every((time) => time !== undefined);
    if (!ready || state !== last) quietSince = performance.now();
    if (performance.now() - quietSince > quietMs) return;
    last = state;
  }
}

/**
 * Processor time of the machine's process, in clock ticks. Undefined when the process is on a processor or does not
 * exist.
 */
async function processorTime(directory: string): Promise<number | undefined> {
  const [pid] = await processesOf(directory);
  if (pid === undefined) return undefined;
  try {
    for (const thread of await readdir(`/proc/${pid}/task`)) {
      if (stateOf(await readFile(`/proc/${pid}/task/${thread}/stat`, "utf8"))[0] === "R") return undefined;
    }
    const fields = stateOf(await readFile(`/proc/${pid}/stat`, "utf8"));
    return Number(fields[11]) + Number(fields[12]);
  } catch {
    // The process has ended in the meantime.
    return undefined;
  }
}

/** The fields of proc_pid_stat(5) after the name, which may contain any character. The first is the state. */
function stateOf(stat: string): readonly string[] {
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}
