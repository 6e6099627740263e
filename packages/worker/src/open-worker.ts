import { readExtraAuthorities } from "#guest/extra-authorities.ts";
import { GuestRequests } from "#guest/guest-requests.ts";
import { chmod, readFile } from "node:fs/promises";
import { availableParallelism, cpus, totalmem } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { registerSymbolicUser } from "./cache/symbolic-users.ts";
import { ContentChecks } from "./host/storage/content-checks.ts";
import { hostFiles, makeDurableDirectory } from "./host/storage/durable-files.ts";
import { Admission, hostRoom } from "#host/admission.ts";
import type { Cgroup } from "#host/cgroups/cgroups.ts";
import { IdleTime } from "#host/idle-time.ts";
import type { AgentTransportName } from "#host/agent-transport.ts";
import { examineVsock } from "#host/examine-vsock.ts";
import type { Log } from "#host/log.ts";
import { claimWorker, isWorkerAlive } from "#host/worker-lock.ts";
import { provideAgentBundles } from "#images/agent-bundle.ts";
import { ImageStore } from "#images/image-store.ts";
import type { NamedKernel } from "#images/image-source.ts";
import type { RegistrySettings } from "#images/oci/registries.ts";
import { kernelProbe } from "#images/kernel/named-kernel.ts";
import { examineFirecracker } from "./hypervisor/firecracker/examine-firecracker.ts";
import { firecrackerHypervisor } from "./hypervisor/firecracker/firecracker.ts";
import { fakeHypervisor } from "./hypervisor/fake/fake-hypervisor.ts";
import type { Hypervisor } from "./hypervisor/hypervisor.ts";
import { notEnforced } from "./not-enforced.ts";
import { type ExamineOptions, examineQemu } from "./hypervisor/qemu/examine-qemu.ts";
import { probeOnce } from "./hypervisor/qemu/probe-accelerator.ts";
import { qemuHypervisor } from "./hypervisor/qemu/qemu.ts";
import { openCgroups, servicesLimits } from "./open-cgroups.ts";
import type { ObjectStore } from "#object-store/object-store.ts";
import { type ObjectStoreOptions, openObjectStore } from "#object-store/open-object-store.ts";
import { RemoteSnapshots } from "#remote-snapshots/remote-snapshots.ts";
import { NetworkPool } from "#network/network-pool.ts";
import { refuseDuringRestore } from "./backups/data-directory.ts";
import { areAllThere, recordUseOf } from "./machine/boot-files.ts";
import type { BootFiles, Host, ProvideBootFiles } from "./machine/host.ts";
import type { LiveMachine } from "./machine/live-machine.ts";
import { adoptMachines, servicesCgroup, workersDirectory } from "#sandboxes/adopt-machines.ts";
import { OwnMemory } from "./templates/own-memory.ts";
import { ReadyMachines } from "./templates/ready-machines.ts";
import { baseWorkspaceMib, builtWorkspaceMib } from "#machine/shape/template-shape.ts";
import { SandboxWorker } from "#sandboxes/sandbox-worker.ts";
import { StartQueue } from "#sandboxes/start-queue.ts";
import { Templates } from "./templates/templates.ts";
import { MemoryThreads } from "#snapshots/memory-threads.ts";
import { SnapshotStore } from "#snapshots/snapshot-store.ts";
import { Verifier } from "#snapshots/verify.ts";
import { asSandboxError, describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import type { HostStatus } from "@opensandbox/wire/worker/status.ts";
import type { Worker, WorkerDescription } from "@opensandbox/wire/worker/worker.ts";

export interface WorkerOptions {
  readonly dataDirectory: string;
  /** The cache of built images. Several data directories may share one. */
  readonly imagesDirectory: string;
  /** The directory of templates. Several data directories may share one. */
  readonly templatesDirectory: string;
  readonly hypervisor: "qemu" | "firecracker" | "fake";
  /** Program and arguments of the agents of fake machines; the guest agent without it. */
  readonly fakeAgent?: readonly [string, ...string[]];
  readonly accelerator: "auto" | "kvm" | "tcg";
  readonly network: "auto" | "tap" | "user";
  /** What machines of QEMU have for their agent channel. */
  readonly agentTransport: "auto" | AgentTransportName;
  /** The location of this host, which the metadata service reports to sandboxes. */
  readonly region: string;
  readonly qemuProgram: string;
  readonly firecrackerProgram: string;
  /** The processor of guests under KVM: `host` or a model of QEMU. Absent: `host`. */
  readonly cpuModel?: string;
  readonly debianMirror?: string;
  /** The kernel of guests. Absent: Debian's. */
  readonly guestKernel?: NamedKernel;
  /** The registries that images are pulled from. Absent: none. */
  readonly registries?: RegistrySettings;
  /** The largest image that is pulled: the bytes of its uncompressed layers. */
  readonly maxImageBytes?: number;
  /** The worker lives for one command: its sandboxes end with it, and it takes over none of other workers. */
  readonly ephemeral: boolean;
  /** Whether adopted machines run. Paused ones run again by {@link OpenedWorker.resumeAll}. Absent: they run. */
  readonly adopting?: "running" | "paused";
  /** Machines that are kept restored for later sandboxes, for each template in demand. */
  readonly readyMachines: number;
  /** Deadline of a guest that boots. A host that is itself emulated needs a longer one. */
  readonly bootTimeoutMs: number;
  /** Memory of the template that machines of all sizes start from, in MiB: the size that most sandboxes have. */
  readonly templateMemoryMib: number;
  /** Where snapshots are stored besides this host. Absent: nowhere. */
  readonly objectStore?: ObjectStoreSettings | undefined;
  /** A PEM file of authorities that hosts of secrets may have, besides the well-known ones. */
  readonly secretAuthoritiesFile?: string;
  /** A PEM file of certificates that every guest trusts besides those of its image. */
  readonly extraAuthoritiesFile?: string;
  readonly log: Log;
  /** Runs after a template was made: the cache has grown. */
  readonly onTemplateMade?: () => void;
}

export interface ObjectStoreSettings extends ObjectStoreOptions {
  /** Encrypts what is stored: 32 bytes. */
  readonly key?: Buffer | undefined;
}

/** Disposing it stops every sandbox on it, unless it was released. */
export interface OpenedWorker extends AsyncDisposable {
  readonly worker: Worker;
  /** Leaves every machine running, for the next worker to adopt. Dispose of the worker afterwards. */
  release(): Promise<void>;
  isWorkerAlive(workerId: string): boolean;
  /** Pauses every machine, for a worker that is cut off. */
  pauseAll(): Promise<void>;
  resumeAll(): Promise<void>;
  status(): Promise<HostStatus>;
  /** Builds everything that a sandbox of `image` needs to start. */
  prepare(image: string, onProgress: Parameters<ProvideBootFiles>[1], signal: AbortSignal): Promise<void>;
}

/**
 * Claims a worker id in the data directory, examines the host, and takes over or removes the machines of dead workers.
 * @throws `unavailable` when the hypervisor is missing, `permission_denied` when the directory is not writable
 */
export async function openWorker(options: WorkerOptions): Promise<OpenedWorker> {
  const { dataDirectory, log } = options;
  const root = process.getuid?.() === 0;
  await openDataDirectory(dataDirectory);
  await using undo = new AsyncDisposableStack();
  const { extraAuthoritiesFile } = options;
  const extra = extraAuthoritiesFile === undefined ? undefined : await readExtraAuthorities(extraAuthoritiesFile);
  const { hypervisor, accelerator } = await chooseHypervisor(options);
  const workerId = `w-${randomHex(4)}`;
  undo.use(await claimWorker(workersDirectory(dataDirectory), workerId));
  // Checked after the claim, so that a restore that begins later finds this worker.
  refuseDuringRestore(dataDirectory);
  const idle = new IdleTime();
  const checks = new ContentChecks();
  undo.use(checks.runInBackground(idle, log));
  const images = imageStore({ ...options, checks });
  const agentTransport = hypervisor.name === "qemu" ? chooseAgentTransport(options) : "virtio-serial";
  const cgroups = hypervisor.name === "fake" ? undefined : await openCgroups(dataDirectory, log);
  if (cgroups !== undefined) undo.defer(() => cgroups.close());
  const services = root ? await cgroups?.create(servicesCgroup(workerId), servicesLimits) : undefined;
  if (services !== undefined) undo.use(services);
  const network = hypervisor.name === "fake" ? noNetwork : await chooseNetwork(options, root, idle, services);
  if (network.mode === "tap") undo.use(network.pool);
  const objects = options.objectStore === undefined ? undefined : undo.use(await openObjectStore(options.objectStore));
  if (objects !== undefined) undo.use(probeObjectStore(objects, log));
  const description: WorkerDescription = {
    hypervisor: hypervisor.name,
    hypervisorVersion: hypervisor.version,
    accelerator,
    network: {
      mode: network.mode,
      reason: network.reason,
      ...(network.mode === "tap" ? {} : { notEnforced: notEnforced[network.mode] }),
    },
    images: await images.names(),
    ...(objects === undefined ? {} : { objectStore: objects.location }),
    ...(network.mode === "tap" ? { secrets: true } : {}),
  };
  const bootFiles = hypervisor.name === "fake" ? undefined : bootFilesFrom(images, { ...options, checks });
  const memory = undo.use(new MemoryThreads());
  const host: Host = {
    ...{
      workerId,
      dataDirectory,
      hypervisor,
      network,
      cgroups,
      root,
      ephemeral: options.ephemeral,
      description,
      bootFiles,
    },
    admission: new Admission(() => hostRoom(dataDirectory)),
    region: options.region,
    templateMemoryMib: options.templateMemoryMib,
    bootTimeoutMs: options.bootTimeoutMs,
    // Fake machines have the files of the host.
    extraAuthorities: hypervisor.name === "fake" ? undefined : extra?.certificates,
    agentTransport,
    snapshots: new SnapshotStore(join(dataDirectory, "snapshots")),
    templates: new SnapshotStore(options.templatesDirectory, { passable: true }),
    templatesDirectory: options.templatesDirectory,
    ...{ memory, log },
    guestRequests: new GuestRequests(),
  };
  undo.use(await registerSymbolicUser(options, log));
  const adopted = await adoptMachines(host, options.adopting);
  const verifier = new Verifier(memory, checks);
  const templates = undo.use(new Templates(host, verifier, options.onTemplateMade));
  const ownMemory = undo.use(new OwnMemory(host));
  const ready = undo.use(new ReadyMachines<LiveMachine>({ perTemplate: options.readyMachines, idle, log }));
  const queue = new StartQueue(startsAtOnce());
  const key = options.objectStore?.key;
  const remote =
    objects === undefined ? undefined : new RemoteSnapshots({ ...host, store: objects, key, verifier, memory });
  const sources = { templates, ready, verifier, ownMemory, queue, idle, remote };
  const worker = undo.use(new SandboxWorker(host, sources, adopted));
  const owned = undo.move();
  return {
    worker,
    release: () => worker.release(),
    pauseAll: () => worker.pauseAll(),
    resumeAll: () => worker.resumeAll(),
    status: async () => ({
      ...(await host.admission.room()),
      totalMemoryMib: Math.floor(totalmem() / 2 ** 20),
      cpuModel: cpus()[0]?.model ?? "unknown",
      readyMachines: ready.state,
    }),
    isWorkerAlive: (id) => id === workerId || isWorkerAlive(workersDirectory(dataDirectory), id),
    async prepare(image, onProgress, signal) {
      await bootFiles?.({ image, workspaceMib: baseWorkspaceMib }, onProgress, signal);
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Deadline of the probe, with its repetitions. */
const probeMs = 120_000;

/** Says in the log whether the object store answers. The worker does not wait for it. */
function probeObjectStore(store: ObjectStore, log: Log): Disposable {
  const ending = new AbortController();
  const fields = { objectStore: store.location };
  store.head("snapshots/none", AbortSignal.any([ending.signal, AbortSignal.timeout(probeMs)])).then(
    () => log("info", "the object store answers", fields),
    (error: unknown) => {
      if (ending.signal.aborted) return;
      const message = "the object store does not work: snapshots stay on this host alone until it does";
      log("error", message, { ...fields, ...describeError(error) });
    },
  );
  return { [Symbol.dispose]: () => ending.abort() };
}

export function imageStore(options: ImageStoreOptions): ImageStore {
  const { imagesDirectory, debianMirror, guestKernel, registries, maxImageBytes, log, checks } = options;
  return new ImageStore({
    imagesDirectory,
    ...(registries === undefined ? {} : { registries }),
    ...(maxImageBytes === undefined ? {} : { maxImageBytes }),
    ...(debianMirror === undefined ? {} : { debianMirror }),
    ...(guestKernel === undefined ? {} : { guestKernel }),
    ...(log === undefined ? {} : { log }),
    ...(checks === undefined ? {} : { checks }),
  });
}

/** The part of the options that images depend on. */
export type ImageOptions = Pick<
  WorkerOptions,
  "imagesDirectory" | "debianMirror" | "guestKernel" | "registries" | "maxImageBytes"
>;

interface ImageStoreOptions extends ImageOptions {
  readonly log?: Log;
  readonly checks?: ContentChecks;
}

/** @throws `permission_denied` when this process may not write to the directory */
async function openDataDirectory(directory: string): Promise<void> {
  try {
    await makeDurableDirectory(directory, 0o711, hostFiles);
    // Machines run as users of their own, which may pass through but not list the directory.
    await chmod(directory, 0o711);
    await makeDurableDirectory(join(directory, "machines"), 0o711, hostFiles);
  } catch (cause) {
    throw new SandboxError(
      "permission_denied",
      `cannot write to the data directory ${directory} (${String((cause as NodeJS.ErrnoException).code)}): run as its owner, or set OPENSANDBOX_DATA_DIR to another directory`,
      { cause },
    );
  }
}

/** The hypervisor that the options name, as this host has it. */
export async function chooseHypervisor(
  options: WorkerOptions,
): Promise<{ readonly hypervisor: Hypervisor; readonly accelerator: WorkerDescription["accelerator"] }> {
  switch (options.hypervisor) {
    case "qemu": {
      const { dataDirectory } = options;
      const qemu = await examineQemu({
        ...(await qemuOptions(options)),
        probe: (host, { kernel }) => probeOnce(host, dataDirectory, { kernel }),
      });
      const reason = qemu.fix === undefined ? qemu.reason : `${qemu.reason}. To use KVM, ${qemu.fix}`;
      return { hypervisor: qemuHypervisor(qemu), accelerator: { name: qemu.accelerator, reason } };
    }
    case "fake": {
      const agent = fileURLToPath(import.meta.resolve("../../guest-agent/src/main.ts"));
      return {
        hypervisor: fakeHypervisor(
          options.fakeAgent ?? [process.execPath, "--disable-warning=ExperimentalWarning", agent],
        ),
        accelerator: { name: "none", reason: "the fake hypervisor runs plain processes and isolates nothing" },
      };
    }
    case "firecracker": {
      const firecracker = await examineFirecracker({ ...options, program: options.firecrackerProgram });
      return {
        hypervisor: firecrackerHypervisor(firecracker),
        accelerator: { name: "kvm", reason: firecracker.reason },
      };
    }
  }
}

/** The part of the options that chooses QEMU's accelerator and processor. */
export async function qemuOptions({
  qemuProgram: program,
  accelerator: wanted,
  cpuModel,
  guestKernel,
}: QemuOptions): Promise<ExamineOptions> {
  return {
    ...{ program, wanted },
    ...(cpuModel === undefined ? {} : { cpuModel }),
    ...(guestKernel === undefined ? {} : { kernel: await kernelProbe(guestKernel.kernel) }),
  };
}

export type QemuOptions = Pick<WorkerOptions, "qemuProgram" | "accelerator" | "cpuModel" | "guestKernel">;

/** @throws `unavailable` when vsock was asked for and does not work here */
function chooseAgentTransport({ agentTransport: wanted, log }: WorkerOptions): AgentTransportName {
  if (wanted === "virtio-serial") return wanted;
  const found = examineVsock();
  if (!found.usable && wanted === "vsock") {
    const remedy = found.fix === undefined ? "" : ` To use it, ${found.fix}.`;
    throw new SandboxError(
      "unavailable",
      `vsock does not work here: ${found.reason}.${remedy} Or use OPENSANDBOX_AGENT_TRANSPORT=virtio-serial`,
    );
  }
  if (!found.usable) return "virtio-serial";
  log("info", "agent channels of new machines use vsock", { reason: found.reason });
  return "vsock";
}

type ChosenNetwork = Host["network"] & { readonly reason: string };

const noNetwork: ChosenNetwork = { mode: "none", reason: "the host's own network, not isolated" };

/**
 * How many networks wait for machines. A worker for one command keeps one. A server keeps twice as many as machines may
 * start at once, so that half of them can be made again during a burst of starts.
 */
function spareNetworks(ephemeral: boolean): number {
  return ephemeral ? 1 : Math.min(2 * startsAtOnce(), maxSpareNetworks);
}

const maxSpareNetworks = 16;

async function chooseNetwork(
  options: WorkerOptions,
  root: boolean,
  idle: IdleTime,
  services: Cgroup | undefined,
): Promise<ChosenNetwork> {
  const { network: wanted, ephemeral, log, hypervisor } = options;
  if (hypervisor === "firecracker" && (wanted === "user" || !root)) {
    throw new SandboxError(
      "not_supported",
      "Firecracker has no network stack of its own, and only root gives machines a TAP: run as root, and leave OPENSANDBOX_NETWORK at tap or auto",
    );
  }
  if (wanted === "user") return { mode: "user", reason: "OPENSANDBOX_NETWORK=user" };
  if (!root) {
    if (wanted === "tap") {
      throw new SandboxError(
        "permission_denied",
        "OPENSANDBOX_NETWORK=tap needs root: run as root, or set OPENSANDBOX_NETWORK=user",
      );
    }
    return { mode: "user", reason: "without root there are no network namespaces: machines use QEMU's own network" };
  }
  const secretAuthorities = await authoritiesIn(options.secretAuthoritiesFile);
  try {
    const servicesEntrances = services?.entrances ?? [];
    const spare = spareNetworks(ephemeral);
    const pool = await NetworkPool.open({ spare, idle, servicesEntrances, secretAuthorities, log });
    return { mode: "tap", pool, reason: "a network namespace for each machine" };
  } catch (error) {
    if (wanted === "tap" || hypervisor === "firecracker") throw error;
    const { message } = asSandboxError(error);
    log("warn", "machines use QEMU's own network, which enforces no policy", { error: message });
    return { mode: "user", reason: `network namespaces do not work on this host: ${message}` };
  }
}

/** @throws `unavailable` for a file that cannot be read or has no certificate */
async function authoritiesIn(file: string | undefined): Promise<string> {
  if (file === undefined) return "";
  const content = await readFile(file, "utf8").catch((error: unknown) => (error as Error).message);
  if (content.includes("-----BEGIN CERTIFICATE-----")) return content;
  const message = `cannot read certificates in ${file}: check OPENSANDBOX_SECRETS_CA_FILE`;
  throw new SandboxError("unavailable", message);
}

/**
 * Finds the files of each image once: their inputs are hashed for that, and sandboxes should not wait for it. An image
 * that was removed is found, and built, again, and so are all images after a file has been found damaged.
 */
function bootFilesFrom(
  images: ImageStore,
  { imagesDirectory, log, checks }: WorkerOptions & { readonly checks: ContentChecks },
): ProvideBootFiles {
  const found = new Map<string, { readonly files: BootFiles; readonly damageCount: number }>();
  return async (request, onProgress, signal) => {
    const { image } = request;
    const workspaceMib = builtWorkspaceMib(request.workspaceMib);
    const key = `${image} ${workspaceMib}`;
    const known = found.get(key);
    const { damageCount } = checks;
    if (known?.damageCount === damageCount && areAllThere(known.files)) {
      recordUseOf(known.files);
      return known.files;
    }
    const bundles = await provideAgentBundles(imagesDirectory, { signal, log, checks });
    const boot = await images.provide(image, { onProgress, signal });
    const wanted = { nodeBinary: process.execPath, bundles, workspaceMib };
    const platform = await images.providePlatform(wanted, { onProgress, signal });
    const { kernel, initramfs, rootfs, rootfsBytes } = boot;
    const files = { kernel, initramfs, rootfs, rootfsBytes, ...platform };
    found.set(key, { files, damageCount });
    return files;
  };
}

/** One more than there are processors, since a start also waits for its guest while the next process is made. */
function startsAtOnce(): number {
  return availableParallelism() + 1;
}
