import { join } from "node:path";
import { closeSync } from "node:fs";
import { listenUnix } from "#host/libc.ts";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { Hypervisor, Machine, MachineExit, MachineSpec } from "../machine.ts";
import { startVmProcess, type VmProcess } from "../vm-process.ts";
import { consoleBytes, type QemuHost, qemuCommandLine, socketPaths } from "./command-line.ts";
import { QmpClient, type QmpEvent } from "./qmp-client.ts";
import { cont, readRing, stop } from "./qmp-commands.ts";
import { readEnd } from "./log.ts";

/** Machines of QEMU. `host` comes from {@link examineQemu}. */
export function qemuHypervisor(host: QemuHost & { readonly version: string }): Hypervisor {
  return {
    name: "qemu",
    version: host.version,
    async boot(spec, signal) {
      signal.throwIfAborted();
      await using undo = new AsyncDisposableStack();
      const log = join(spec.directory, "qemu.log");
      const process = undo.use(await startQemu(spec, host, log));
      const exit = new GuestEnd();
      try {
        const qmp = undo.use(
          await QmpClient.connect(socketPaths(spec.directory).qmp, (event) => exit.observe(event), signal),
        );
        undo.move();
        return new QemuMachine(spec, process, qmp, exit, log);
      } catch (error) {
        const said = await readEnd(log);
        const { code, message } = asSandboxError(error);
        if (code !== "unavailable" || said === "") throw error;
        throw new SandboxError("unavailable", `${message}: ${said}`, undefined, { cause: error });
      }
    },
  };
}

async function startQemu(spec: MachineSpec, host: QemuHost, log: string): Promise<VmProcess> {
  const { network } = spec;
  return await startVmProcess({
    argv: qemuCommandLine(spec, host),
    logFile: log,
    cwd: spec.directory,
    env: { PATH: "/usr/bin:/bin" },
    ...(spec.user === undefined ? {} : { user: spec.user }),
    ...(network.kind === "tap" ? { namespace: network.namespace } : {}),
    openInherited() {
      const paths = socketPaths(spec.directory);
      const opened: number[] = [];
      try {
        // The order is that of inheritedFds.
        opened.push(listenUnix(paths.qmp));
        opened.push(listenUnix(paths.agent));
        if (network.kind === "tap") opened.push(network.openTap());
        return opened;
      } catch (error) {
        for (const fd of opened) closeSync(fd);
        throw error;
      }
    },
  });
}

/** Learns from QEMU's events why the guest ended. */
class GuestEnd {
  readonly ended: Promise<MachineExit>;
  readonly #resolve: (exit: MachineExit) => void;

  constructor() {
    const { promise, resolve } = Promise.withResolvers<MachineExit>();
    this.ended = promise;
    this.#resolve = resolve;
  }

  observe({ event, data }: QmpEvent): void {
    if (event !== "SHUTDOWN") return;
    // `reason` is one of QEMU's ShutdownCause; the kernel's panic=-1 turns a panic into a reset.
    const reason = String(data?.["reason"]);
    const panicked = reason === "guest-reset" || reason === "guest-panic";
    this.#resolve({ reason: panicked ? "panicked" : "shutdown", detail: reason });
  }
}

class QemuMachine implements Machine {
  readonly pid: number;
  readonly agentSocket: string;
  readonly exited: Promise<MachineExit>;
  readonly #process: VmProcess;
  readonly #qmp: QmpClient;
  #console = "";
  #disposed = false;

  constructor(spec: MachineSpec, process: VmProcess, qmp: QmpClient, end: GuestEnd, log: string) {
    this.pid = process.pid;
    this.agentSocket = socketPaths(spec.directory).agent;
    this.#process = process;
    this.#qmp = qmp;
    const died = process.exited.then(async ({ code, signal }): Promise<MachineExit> => {
      if (this.#disposed) return { reason: "killed", detail: "" };
      const how = signal === null ? `exited with ${code}` : `was ended by ${signal}`;
      return { reason: "died", detail: `QEMU ${how} ${await readEnd(log)}`.trim() };
    });
    this.exited = Promise.race([end.ended, died]);
  }

  async pause(): Promise<void> {
    await stop(this.#qmp);
  }

  async resume(): Promise<void> {
    await cont(this.#qmp);
  }

  async console(): Promise<string> {
    const fresh = await readRing(this.#qmp, "console", consoleBytes);
    this.#console = (this.#console + fresh).slice(-consoleBytes);
    return this.#console;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    await this.#process[Symbol.asyncDispose]();
    this.#qmp[Symbol.dispose]();
  }
}
