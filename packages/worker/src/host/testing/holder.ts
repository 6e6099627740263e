// A process that holds a lock, a worker's claim or slots, for tests to kill. `startHolder` runs this file.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { eventOf } from "@opensandbox/wire/testing/eventually.ts";
import { lockFile } from "../file-lock.ts";
import { claimSlot } from "../slots.ts";
import { claimWorker } from "../worker-lock.ts";

const holds = {
  file: async (path: string) => void (await lockFile(path, { wait: true })),
  worker: async (directory: string, id: string) => void (await claimWorker(directory, id)),
  /** Prints the numbers of `count` slots. */
  slots: async (owner: string, count: string) => {
    const slots = await Promise.all(Array.from({ length: Number(count) }, () => claimSlot(owner)));
    return slots.map(({ number }) => number).join(" ");
  },
} as const;

export interface Holder extends AsyncDisposable {
  /** The line that the process prints when it holds everything requested. */
  readonly said: string;
  kill(): Promise<void>;
}

/** Resolves when the process holds what it was asked to. */
export async function startHolder(what: keyof typeof holds, ...args: readonly string[]): Promise<Holder> {
  const child = spawn(
    process.execPath,
    ["--disable-warning=ExperimentalWarning", fileURLToPath(import.meta.url), what, ...args],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  const exited = once(child, "exit");
  const [said] = (await eventOf(child.stdout, "data")) as [Buffer];
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
  };
  return { said: said.toString().trim(), kill, [Symbol.asyncDispose]: kill };
}

if (import.meta.main) {
  const [what, first = "", second = ""] = process.argv.slice(2);
  const said = await holds[what as keyof typeof holds](first, second);
  process.stdout.write(`${said ?? "held"}\n`);
  // Lives until it is killed or its parent has ended.
  process.stdin.resume();
}
