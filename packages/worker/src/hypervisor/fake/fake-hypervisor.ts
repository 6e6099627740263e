import { existsSync } from "node:fs";
import { mkdir, watch } from "node:fs/promises";
import { join } from "node:path";
import { type AgentTransport, virtioSerialTransport } from "#host/agent-transport.ts";
import { killProcessesOf, machineEnvironment } from "#host/kill-by-path.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Hypervisor, Vm, VmExit, VmSpec } from "../hypervisor.ts";
import { startVmProcess, type VmProcess } from "../vm-process.ts";

/**
 * Runs the guest agent as a plain process of this host, so that the whole product starts in seconds without a virtual
 * machine. It isolates nothing. `agent`: the agent's program and arguments.
 */
export function fakeHypervisor(agent: readonly [string, ...string[]]): Hypervisor {
  return {
    name: "fake",
    version: process.versions.node,
    writesDirectory: true,
    async boot(spec, signal) {
      signal.throwIfAborted();
      const home = join(spec.directory, "home");
      // A machine that boots again keeps its files.
      if (!existsSync(home)) await mkdir(home);
      const agentSocket = join(spec.directory, "agent.sock");
      await using undo = new AsyncDisposableStack();
      const vm = undo.use(
        await startVmProcess({
          argv: [...agent, "--socket", agentSocket, "--fake", "--home", home],
          logFile: join(spec.directory, "console.log"),
          cwd: spec.directory,
          env: {
            PATH: process.env["PATH"] ?? "/usr/bin:/bin",
            HOME: home,
            ...machineEnvironment(spec.directory),
          },
          openInherited: () => [],
        }),
      );
      await appears(agentSocket, vm, signal);
      undo.move();
      return new FakeVm(spec, vm, agentSocket);
    },
  };
}

/** The agent listens within a second; a busy host has taken several. */
const startTimeoutMs = 60_000;

async function appears(file: string, vm: VmProcess, signal: AbortSignal): Promise<void> {
  const done = new AbortController();
  const stop = AbortSignal.any([signal, done.signal, AbortSignal.timeout(startTimeoutMs)]);
  void vm.exited.then(() => done.abort());
  try {
    const changes = watch(join(file, ".."), { signal: stop });
    // The check comes after the watch has started, so a file that appears later is an event.
    if (existsSync(file)) return;
    for await (const _ of changes) if (existsSync(file)) return;
  } catch (cause) {
    const code = signal.aborted ? "canceled" : "unavailable";
    throw new SandboxError(code, `the agent of the fake machine did not listen on ${file}`, { cause });
  } finally {
    done.abort();
  }
}

class FakeVm implements Vm {
  readonly pid: number;
  readonly agentTransport: AgentTransport;
  readonly exited: Promise<VmExit>;
  readonly #vm: VmProcess;
  readonly #directory: string;
  #disposed = false;

  constructor({ directory }: VmSpec, vm: VmProcess, agentSocket: string) {
    this.#directory = directory;
    this.pid = vm.pid;
    this.agentTransport = virtioSerialTransport(agentSocket);
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
    // There is no connection to close, and the process is in a session of its own.
  }

  async console(): Promise<string> {
    return "";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    await this.#vm[Symbol.asyncDispose]();
    // The machine's commands end with it, in any session: their environment names the machine's home.
    await killProcessesOf(this.#directory, "environ");
  }
}
