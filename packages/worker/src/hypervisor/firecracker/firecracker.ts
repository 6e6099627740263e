import { closeSync } from "node:fs";
import { chown, mkdir, readdir, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { killMachineProcesses, machineEnvironment } from "#host/kill-by-path.ts";
import { listenUnix, setTapOwner } from "#host/kernel/libc.ts";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import type { MemoryRegion } from "../guest-memory.ts";
import type { CapturedVm, Hypervisor, PreparedVm, Vm, VmSpec } from "../hypervisor.ts";
import { withKvmGroup } from "../kvm-access.ts";
import { explained } from "../process-log.ts";
import { QmpClient } from "../qmp/qmp-client.ts";
import { adoptVmProcess, startVmProcess, type VmProcess } from "../vm-process.ts";
import { ApiClient } from "./api-client.ts";
import * as requests from "./api-requests.ts";
import { type FirecrackerHost, firecrackerCommandLine } from "./command-line.ts";
import { compatibilityOf, describeDifference } from "./compatibility.ts";
import { bootConfiguration, consoleConfiguration, hotplugSizeMib } from "./configuration.ts";
import { Console } from "./console.ts";
import { findBootedMemory, findRestoredMemory, memoryFinder, memoryHotplug } from "./firecracker-memory.ts";
import { FirecrackerVm } from "./firecracker-vm.ts";
import { ownDirectory, ownPathOf, pathOf } from "./paths.ts";
import { withoutReadAhead } from "./read-ahead.ts";
import { systemCallFilter } from "./system-call-filter.ts";

/** VMs of Firecracker. `host` comes from {@link examineFirecracker}. */
export function firecrackerHypervisor(host: FirecrackerHost): Hypervisor {
  return {
    name: "firecracker",
    version: host.version,
    writesDirectory: false,
    boot: (spec, signal) => boot(spec, host, signal),
    restoring: {
      baseMib: ({ memoryMib, hotplugMib }) => memoryMib + hotplugSizeMib(hotplugMib),
      compatibilityOf: (spec) => compatibilityOf(spec, host),
      describeDifference,
      enlargesDisks: false,
      // A guest's driver serves requests; one that is made before the vCPUs run was not tried.
      hotplugsMemory: false,
      sparesProcessors: false,
      prepare: (spec, signal) => prepare(spec, host, signal),
    },
    adopt,
  };
}

/** A machine's processes, and the connections to them. Disposing it ends the processes. */
interface Started extends AsyncDisposable {
  readonly process: VmProcess;
  readonly api: ApiClient;
  readonly storage: QmpClient | undefined;
  readonly console: Console;
}

async function boot(spec: VmSpec, host: FirecrackerHost, signal: AbortSignal): Promise<Vm> {
  await using undo = new AsyncDisposableStack();
  const started = undo.use(await start(spec, host, signal));
  await explained(pathOf(spec.directory, "log"), async () => {
    for (const request of bootConfiguration(spec)) await started.api.request(request);
    await requests.startInstance(started.api);
  });
  const vm = await vmOf(spec, started, await findBootedMemory(started.process.pid, spec));
  undo.move();
  return vm;
}

async function prepare(spec: VmSpec, host: FirecrackerHost, signal: AbortSignal): Promise<PreparedVm> {
  return new PreparedFirecrackerVm(spec, await start(spec, host, signal));
}

class PreparedFirecrackerVm implements PreparedVm {
  readonly pid: number;
  readonly #spec: VmSpec;
  readonly #started: Started;
  #restored = false;

  constructor(spec: VmSpec, started: Started) {
    this.pid = started.process.pid;
    this.#spec = spec;
    this.#started = started;
  }

  /** Firecracker has memory only when it has read the devices' state, which leaves the vCPUs stopped. */
  async restore({ deviceState, hotplugged, fillMemory }: CapturedVm, signal: AbortSignal): Promise<Vm> {
    signal.throwIfAborted();
    const { api, process } = this.#started;
    await api.request(consoleConfiguration);
    try {
      await requests.loadSnapshot(api, deviceState, this.#spec.memoryBase);
    } catch (error) {
      // Firecracker refuses, or ends, when it cannot read a state.
      const { message } = asSandboxError(error);
      throw new SandboxError("incompatible", message, { reason: "machine" }, { cause: error });
    }
    signal.throwIfAborted();
    const vm = await vmOf(this.#spec, this.#started, await findRestoredMemory(process.pid, this.#spec));
    await fillMemory(await vm.capturing.memory(hotplugged));
    signal.throwIfAborted();
    this.#restored = true;
    return vm;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#restored) await this.#started[Symbol.asyncDispose]();
  }
}

async function adopt(spec: VmSpec, pids: readonly number[], signal: AbortSignal): Promise<Vm> {
  await using undo = new AsyncDisposableStack();
  const api = undo.use(await ApiClient.connect(ownPathOf(spec.directory, "api"), signal));
  const pid = await processOf(pids);
  const storage = hasStorage(spec) ? undo.use(await connectStorage(spec, signal)) : undefined;
  const console = undo.use(new Console(ownPathOf(spec.directory, "console")));
  const process = adoptVmProcess(pid, spec.directory, api.closed);
  const boot = await findRestoredMemory(pid, spec).catch(() => findBootedMemory(pid, spec));
  const vm = await vmOf(spec, { process, api, storage, console }, boot);
  undo.move();
  return vm;
}

/** Firecracker's own process; the others serve its disks. @throws `unavailable` when it has ended */
async function processOf(pids: readonly number[]): Promise<number> {
  for (const pid of pids) {
    const argv = (await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")).split("\0");
    if (argv.includes("--api-sock")) return pid;
  }
  throw new SandboxError("unavailable", `none of the processes ${pids.join(", ")} is Firecracker`);
}

/** Starts Firecracker, unconfigured, with its storage daemon. After a failure no process is left. */
async function start(spec: VmSpec, host: FirecrackerHost, signal: AbortSignal): Promise<Started> {
  signal.throwIfAborted();
  if (spec.network.kind === "user") {
    throw new SandboxError(
      "not_supported",
      "Firecracker has no network stack of its own: run the server as root, which gives each machine a TAP",
    );
  }
  const { directory } = spec;
  await using undo = new AsyncDisposableStack();
  const process = await startProcess(spec, host);
  undo.defer(async () => {
    await process[Symbol.asyncDispose]();
    await killMachineProcesses(directory);
  });
  return await explained(pathOf(spec.directory, "log"), async () => {
    const api = undo.use(await ApiClient.connect(ownPathOf(directory, "api"), signal, process.exited));
    const storage = hasStorage(spec) ? undo.use(await connectStorage(spec, signal)) : undefined;
    if (storage !== undefined) await withoutReadAhead(process.pid);
    const console = undo.use(new Console(ownPathOf(directory, "console")));
    const owned = undo.move();
    return { process, api, storage, console, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  });
}

async function startProcess(spec: VmSpec, host: FirecrackerHost): Promise<VmProcess> {
  const { directory, network } = spec;
  await makeOwnDirectory(spec);
  // A machine that boots again has the file of its earlier process.
  await rm(pathOf(directory, "filter"), { force: true });
  if (host.filtersCalls) await writeFile(pathOf(directory, "filter"), systemCallFilter(), { mode: 0o444 });
  return await startVmProcess({
    argv: firecrackerCommandLine(spec, host, await linkedFiles(directory)),
    logFile: pathOf(directory, "log"),
    cwd: ownDirectory(directory),
    env: { PATH: "/usr/bin:/bin", ...machineEnvironment(directory) },
    ...(spec.user === undefined ? {} : { user: withKvmGroup(spec.user, host.kvmAccess) }),
    ...(spec.cgroupEntrances === undefined ? {} : { cgroupEntrances: spec.cgroupEntrances }),
    ...(network.kind === "tap" ? { namespace: network.namespace } : {}),
    openInherited() {
      letOpenTap(spec);
      return hasStorage(spec) ? [listenUnix(pathOf(directory, "storage"))] : [];
    },
  });
}

/** A machine that boots again gets an empty one: its earlier process ran as another user. */
async function makeOwnDirectory({ directory, disks, user }: VmSpec): Promise<void> {
  const own = ownDirectory(directory);
  await rm(own, { recursive: true, force: true });
  await mkdir(own, { mode: 0o700 });
  for (const { base, layers } of disks) {
    if (layers.length === 0) await symlink(relative(own, base), join(own, relative(directory, base)));
  }
  if (user !== undefined) await chown(own, user.uid, user.uid);
}

/** The files that links in a machine's directory lead to: those of a cache on another file system. */
async function linkedFiles(directory: string): Promise<readonly string[]> {
  const entries = await readdir(directory, { withFileTypes: true });
  return await Promise.all(
    entries.filter((entry) => entry.isSymbolicLink()).map(({ name }) => realpath(join(directory, name))),
  );
}

/** Firecracker opens its TAP by name. */
function letOpenTap({ network, user }: VmSpec): void {
  if (network.kind !== "tap" || user === undefined) return;
  const tap = network.openTap();
  try {
    setTapOwner(tap, user.uid);
  } finally {
    closeSync(tap);
  }
}

async function connectStorage({ directory }: VmSpec, signal: AbortSignal): Promise<QmpClient> {
  return await QmpClient.connect(pathOf(directory, "storage"), signal);
}

function hasStorage({ disks }: VmSpec): boolean {
  return disks.some(({ layers }) => layers.length > 0);
}

async function vmOf(
  spec: VmSpec,
  { process, api, storage, console }: Omit<Started, typeof Symbol.asyncDispose>,
  boot: readonly MemoryRegion[],
): Promise<FirecrackerVm> {
  const memory = memoryFinder(process.pid, spec, boot);
  return new FirecrackerVm({ spec, process, api, storage, console, memory, hotplug: await memoryHotplug(spec, api) });
}
