import { existsSync } from "node:fs";
import { mkdir, watch } from "node:fs/promises";
import { join } from "node:path";
import { killProcessesOf } from "#host/kill-by-path.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Hypervisor, Vm, VmExit, VmSpec } from "../hypervisor.ts";
import { startVmProcess, type VmProcess } from "../vm-process.ts";

/**
 * Runs the guest agent as a plain process of this host: the whole product without a virtual machine, in seconds.
 * It isolates nothing. `agent` is the agent's own program and arguments.
 */
export function fakeHypervisor(agent: readonly [string, ...string[]]): Hypervisor {
  return {
    name: "fake",
    version: process.versions.node,
    async boot(spec, signal) {
      signal.throwIfAborted();
      const home = join(spec.directory, "home");
      await mkdir(home);
      const agentSocket = join(spec.directory, "agent.sock");
      await using undo = new AsyncDisposableStack();
      const vm = undo.use(
        await startVmProcess({
          argv: [...agent, "--socket", agentSocket, "--fake", "--home", home],
          logFile: join(spec.directory, "console.log"),
          cwd: spec.directory,
          env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin", HOME: home },
          openInherited: () => [],
        }),
      );
      await appears(agentSocket, vm, signal);
      undo.move();
      return new FakeVm(spec, vm, agentSocket);
    },
  };
}

async function appears(file: string, vm: VmProcess, signal: AbortSignal): Promise<void> {
  const until = new AbortController();
  const stop = AbortSignal.any([signal, until.signal]);
  void vm.exited.then(() => until.abort());
  try {
    const changes = watch(join(file, ".."), { signal: stop });
    // Once the watch stands nothing is missed: look before the first change as well.
    if (existsSync(file)) return;
    for await (const _ of changes) if (existsSync(file)) return;
  } catch (cause) {
    const code = signal.aborted ? "canceled" : "unavailable";
    throw new SandboxError(code, "the fake machine's agent did not come up", { cause });
  } finally {
    until.abort();
  }
}

class FakeVm implements Vm {
  readonly pid: number;
  readonly agentSocket: string;
  readonly exited: Promise<VmExit>;
  readonly #vm: VmProcess;
  readonly #directory: string;
  #disposed = false;

  constructor({ directory }: VmSpec, vm: VmProcess, agentSocket: string) {
    this.#directory = directory;
    this.pid = vm.pid;
    this.agentSocket = agentSocket;
    this.#vm = vm;
    this.exited = vm.exited.then(({ code, signal }) => {
      if (this.#disposed) return { reason: "killed", detail: "" };
      if (code === 0) return { reason: "shutdown", detail: "" };
      return { reason: "died", detail: signal === null ? `exited with ${code}` : `ended by ${signal}` };
    });
  }

  async pause(): Promise<void> {
    process.kill(this.pid, "SIGSTOP");
  }

  async resume(): Promise<void> {
    process.kill(this.pid, "SIGCONT");
  }

  release(): void {
    // Nothing is held but the process, which is one of its own.
  }

  async console(): Promise<string> {
    return "";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    await this.#vm[Symbol.asyncDispose]();
    // A machine's end is that of its commands. They know themselves by their home, wherever they have gone.
    await killProcessesOf(this.#directory, "environ");
  }
}
