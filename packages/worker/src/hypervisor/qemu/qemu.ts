import { closeSync } from "node:fs";
import { chown, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openVhostVsock } from "#host/examine-vsock.ts";
import { listenUnix } from "#host/kernel/libc.ts";
import { machineEnvironment } from "#host/kill-by-path.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { findMemory, processMapping } from "../guest-memory.ts";
import type { CapturedVm, Hypervisor, PreparedVm, Vm, VmExit, VmSpec, NetworkAttachment } from "../hypervisor.ts";
import { adoptVmProcess, startVmProcess, type VmProcess } from "../vm-process.ts";
import { compatibilityOf, describeDifference } from "./compatibility.ts";
import { acceleratorFailure, openKvm, withKvmGroup } from "../kvm-access.ts";
import { withoutVsock } from "./device-state.ts";
import { inheritedDescriptors, type QemuHost, type QemuStart, qemuCommandLine } from "./command-line.ts";
import { pathOf } from "./paths.ts";
import { explained } from "../process-log.ts";
import { QemuVm } from "./qemu-vm.ts";
import { QmpClient } from "../qmp/qmp-client.ts";
import { openVhostNet } from "./vhost-net.ts";
import * as commands from "./qmp-commands.ts";

/** VMs of QEMU. `host` comes from {@link examineQemu}. */
export function qemuHypervisor(host: QemuHost & { readonly version: string }): Hypervisor {
  return {
    name: "qemu",
    version: host.version,
    writesDirectory: false,
    boot: (spec, signal) => boot(spec, host, signal),
    restoring: {
      compatibilityOf: (spec) => compatibilityOf(spec, host),
      describeDifference,
      enlargesDisks: true,
      hotplugsMemory: true,
      sparesProcessors: true,
      prepare: (spec, signal) => prepare(spec, host, signal),
    },
    adopt,
  };
}

interface Started {
  readonly vm: QemuVm;
  readonly qmp: QmpClient;
}

async function boot(spec: VmSpec, host: QemuHost, signal: AbortSignal): Promise<Vm> {
  return (await start(spec, host, "boot", signal)).vm;
}

async function prepare(spec: VmSpec, host: QemuHost, signal: AbortSignal): Promise<PreparedVm> {
  await using undo = new AsyncDisposableStack();
  const { vm, qmp } = await start(spec, host, "restore", signal);
  undo.use(vm);
  await commands.expectDevicesState(qmp);
  undo.move();
  return new PreparedQemuVm(spec, vm, qmp);
}

/** Reading a state takes tens of milliseconds; one that takes this long never ends. */
const restoreTimeoutMs = 60_000;

const cannotRead = "QEMU cannot read the state of the devices";

class PreparedQemuVm implements PreparedVm {
  readonly pid: number;
  readonly #spec: VmSpec;
  readonly #vm: QemuVm;
  readonly #qmp: QmpClient;
  #restored = false;

  constructor(spec: VmSpec, vm: QemuVm, qmp: QmpClient) {
    this.#spec = spec;
    this.pid = vm.pid;
    this.#vm = vm;
    this.#qmp = qmp;
  }

  async restore(
    { deviceState: captured, hotplugged, omitVsock, fillMemory }: CapturedVm,
    signal: AbortSignal,
  ): Promise<Vm> {
    signal.throwIfAborted();
    await fillMemory(await this.#vm.capturing.memory(hotplugged));
    signal.throwIfAborted();
    const deviceState = omitVsock === true ? await stateWithoutVsock(captured, this.#spec) : captured;
    const end = Promise.withResolvers<void>();
    using _ = this.#qmp.listen(({ event, data }) => {
      if (event !== "MIGRATION") return;
      if (data?.["status"] === "completed") end.resolve();
      if (data?.["status"] === "failed")
        end.reject(new SandboxError("incompatible", cannotRead, { reason: "machine" }));
    });
    // QEMU exits when it cannot read a state, and writes the reason to its standard error.
    void this.#vm.exited.then(({ detail }) =>
      end.reject(new SandboxError("incompatible", `${cannotRead}: ${detail}`, { reason: "machine" })),
    );
    const onAbort = (): void => end.reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    const timer = setTimeout(() => {
      const seconds = restoreTimeoutMs / 1000;
      end.reject(
        new SandboxError("unavailable", `QEMU did not finish reading the state of the devices in ${seconds} s`),
      );
    }, restoreTimeoutMs);
    end.promise.catch(() => undefined);
    try {
      await Promise.race([commands.readDevicesState(this.#qmp, deviceState), end.promise]);
      await end.promise;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    }
    this.#restored = true;
    return this.#vm;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#restored) await this.#vm[Symbol.asyncDispose]();
  }
}

async function adopt(spec: VmSpec, pids: readonly number[], signal: AbortSignal): Promise<Vm> {
  const pid = await processMapping(spec.memoryBase, pids);
  if (pid === undefined) {
    throw new SandboxError(
      "unavailable",
      `none of the processes ${pids.join(", ")} maps the machine's memory ${spec.memoryBase}`,
    );
  }
  await using undo = new AsyncDisposableStack();
  const qmp = undo.use(await QmpClient.connect(pathOf(spec.directory, "qmp"), signal));
  const process = adoptVmProcess(pid, spec.directory, qmp.closed);
  const firstMemory = await findMemory(pid, spec.memoryBase, spec.memoryMib * 2 ** 20);
  const ended = endOf(await commands.queryStatus(qmp));
  const vm = new QemuVm({ spec, process, qmp, firstMemory, ended });
  undo.move();
  return vm;
}

/** The end of a guest whose event went to an earlier worker. `status` is QEMU's RunState. */
function endOf(status: string): VmExit | undefined {
  switch (status) {
    case "shutdown":
      return { reason: "shutdown", detail: "guest-shutdown" };
    case "guest-panicked":
    case "internal-error":
      return { reason: "panicked", detail: status };
    default:
      return undefined;
  }
}

async function start(spec: VmSpec, host: QemuHost, kind: QemuStart, signal: AbortSignal): Promise<Started> {
  signal.throwIfAborted();
  await using undo = new AsyncDisposableStack();
  const process = undo.use(await startProcess(spec, host, kind));
  const work = async (): Promise<Started> => {
    const qmp = undo.use(await QmpClient.connect(pathOf(spec.directory, "qmp"), signal));
    // QEMU maps the memory before it answers for the first time.
    const firstMemory = await findMemory(process.pid, spec.memoryBase, spec.memoryMib * 2 ** 20);
    const vm = new QemuVm({ spec, process, qmp, firstMemory });
    undo.move();
    return { vm, qmp };
  };
  return await explained(pathOf(spec.directory, "log"), work, (logged) => acceleratorFailure(logged, host));
}

async function startProcess(spec: VmSpec, host: QemuHost, kind: QemuStart): Promise<VmProcess> {
  const { network } = spec;
  return await startVmProcess({
    argv: qemuCommandLine(spec, host, kind),
    logFile: pathOf(spec.directory, "log"),
    cwd: spec.directory,
    env: { PATH: "/usr/bin:/bin", ...machineEnvironment(spec.directory) },
    ...(spec.user === undefined ? {} : { user: withKvmGroup(spec.user, host.kvmAccess) }),
    ...(spec.cgroupEntrances === undefined ? {} : { cgroupEntrances: spec.cgroupEntrances }),
    ...(network.kind === "tap" ? { namespace: network.namespace } : {}),
    openInherited() {
      const open = {
        qmp: () => listenUnix(pathOf(spec.directory, "qmp")),
        agent: () => listenUnix(pathOf(spec.directory, "agent")),
        tap: () => (network as NetworkAttachment & { kind: "tap" }).openTap(),
        kvm: openKvm,
        "vhost-net": openVhostNet,
        vsock: openVhostVsock,
      };
      const opened: number[] = [];
      try {
        for (const name of inheritedDescriptors(spec, host)) opened.push(open[name]());
        return opened;
      } catch (error) {
        for (const fd of opened) closeSync(fd);
        throw error;
      }
    },
  });
}

/** Writes the state without its vsock device to the machine's directory. Returns the path. */
async function stateWithoutVsock(captured: string, { directory, user }: VmSpec): Promise<string> {
  const path = join(directory, "devices-without-vsock");
  await writeFile(path, withoutVsock(await readFile(captured)), { mode: 0o400, flag: "wx" });
  if (user !== undefined) await chown(path, user.uid, user.gid);
  return path;
}
