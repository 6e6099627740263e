import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const root = "/sys/fs/cgroup";
const sandbox = join(root, "sandbox");

/** Enough for language servers and package managers; a fork bomb ends here. */
const maxPids = 4096;

/** Of the machine's memory: the rest keeps the agent and the kernel alive when commands take all they can. */
const memoryShare = 0.9;

/** Makes the group that all commands live in. May be called again. */
export function setUpCgroup(): void {
  writeFileSync(join(root, "cgroup.subtree_control"), "+cpu +memory +pids");
  mkdirSync(sandbox, { recursive: true });
  writeFileSync(join(sandbox, "cgroup.subtree_control"), "");
  writeFileSync(join(sandbox, "pids.max"), String(maxPids));
  const kib = Number(/^MemTotal:\s*(\d+)/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1]);
  writeFileSync(join(sandbox, "memory.max"), String(Math.floor(kib * memoryShare) * 1024));
  writeFileSync(join(sandbox, "cpu.weight"), "50");
}

/** A group of one command, in which it and all that it starts stay. Disposing it kills them. */
export class CommandGroup implements Disposable {
  static #next = 1;
  readonly #directory: string;

  constructor() {
    this.#directory = join(sandbox, `e${process.pid}-${CommandGroup.#next}`);
    CommandGroup.#next += 1;
    mkdirSync(this.#directory);
  }

  /** Where a process of it is put by writing to it. */
  get procs(): string {
    return join(this.#directory, "cgroup.procs");
  }

  /** Every process, whatever session or group it has put itself in. */
  kill(): void {
    if (existsSync(this.#directory)) writeFileSync(join(this.#directory, "cgroup.kill"), "1");
  }

  /** Removes the group when nothing runs in it. */
  removeIfEmpty(): boolean {
    try {
      rmSync(this.#directory, { recursive: false });
    } catch {
      // Something of the command still runs.
    }
    return !existsSync(this.#directory);
  }

  [Symbol.dispose](): void {
    this.kill();
  }
}
