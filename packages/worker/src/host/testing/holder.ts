// Another process that holds something of the host, to be killed while it does: started by `startHolder`, which is also
// what this file does when it is run.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { lockFile } from "../file-lock.ts";
import { claimSlot } from "../slots.ts";
import { claimWorker } from "../worker-lock.ts";

const holds = {
  file: async (path: string) => void (await lockFile(path, { wait: true })),
  worker: async (directory: string, id: string) => void (await claimWorker(directory, id)),
  /** Says the numbers of so many slots. */
  slots: async (owner: string, count: string) => {
    const slots = await Promise.all(Array.from({ length: Number(count) }, () => claimSlot(owner)));
    return slots.map(({ number }) => number).join(" ");
  },
} as const;

export interface Holder extends AsyncDisposable {
  /** What it said when it had it. */
  readonly said: string;
  kill(): Promise<void>;
}

/** Settles when the process has it. */
export async function startHolder(what: keyof typeof holds, ...args: readonly string[]): Promise<Holder> {
  const child = spawn(
    process.execPath,
    ["--disable-warning=ExperimentalWarning", fileURLToPath(import.meta.url), what, ...args],
    { stdio: ["pipe", "pipe", "inherit"] },
  );
  const exited = once(child, "exit");
  const [said] = (await once(child.stdout, "data")) as [Buffer];
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
  // Until it is killed, or whoever started it has gone.
  process.stdin.resume();
}
