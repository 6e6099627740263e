import { mkdir, open, rm } from "node:fs/promises";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { lockFile } from "#host/file-lock.ts";
import { holdDirectory } from "#host/storage/directory-lock.ts";
import { recordUse } from "#host/storage/last-use.ts";
import type { VmSpec } from "#hypervisor/hypervisor.ts";
import { type Shape, type StoredFile, withMemoryBase } from "#snapshots/manifest.ts";
import type { Verifier } from "#snapshots/verify.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { asSandboxError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { orAborted } from "@opensandbox/wire/or-aborted.ts";
import { protocolVersion } from "@opensandbox/wire/guest/methods.ts";
import type { Progress } from "@opensandbox/wire/worker/worker.ts";
import { bootArguments } from "#machine/boot-arguments.ts";
import { holdBootFiles } from "#machine/boot-files.ts";
import type { MachineCapture } from "#machine/capture-machine.ts";
import type { BootFiles, Host } from "#machine/host.ts";
import { maxHotplugMib, memoryBaseMib } from "#machine/shape/hotplug.ts";
import { imageHostname } from "#guest/guest-identity.ts";
import { noHooks } from "#guest/guest-hooks.ts";
import { introduceGuest } from "#machine/introduce-guest.ts";
import { writeEntry } from "#machine/journal.ts";
import { imageFiles, seal } from "#machine/machine-files.ts";
import { storeSnapshot } from "#machine/store-snapshot.ts";
import { Spans } from "#machine/spans.ts";
import { bootMachine, newMachineId } from "#machine/start-machine.ts";
import { limitGuest } from "#machine/shape/reshape-machine.ts";
import { bootsOnOneProcessor, templateProcessors, templateShapeOf } from "#machine/shape/template-shape.ts";
import { templateWarmUps, warmUpTemplate, warmUpVersion } from "./warm-up.ts";

/** What distinguishes one template from another. */
export interface TemplateRequest {
  readonly image: string;
  readonly shape: Shape;
  readonly networkEnabled: boolean;
}

/**
 * Captured warm machines, which sandboxes are restored from: one for each image, and further ones for sizes that it cannot
 * be brought to. The first request makes a template, and other processes that need it meanwhile wait.
 */
export class Templates implements AsyncDisposable {
  readonly #host: Host;
  readonly #verifier: Verifier;
  readonly #onMade: () => void;
  readonly #making = new Map<string, Promise<StoredSnapshot>>();
  readonly #ending = new AbortController();

  /** `onMade` runs after each template that this worker has made. */
  constructor(host: Host, verifier: Verifier, onMade: () => void = () => undefined) {
    this.#host = host;
    this.#verifier = verifier;
    this.#onMade = onMade;
  }

  /** Whether this host can make and use templates. */
  get possible(): boolean {
    return this.#host.hypervisor.restoring !== undefined && this.#host.bootFiles !== undefined;
  }

  /** The shape of the template that a machine of `shape` is restored from, before it is brought to its own shape. */
  shapeFor(shape: Shape): Shape {
    const { hypervisor, templateMemoryMib } = this.#host;
    return hypervisor.restoring === undefined ? shape : templateShapeOf(shape, templateMemoryMib, hypervisor.restoring);
  }

  /** Names the template of a request; equal keys name the same template. */
  keyOf(request: TemplateRequest, files: BootFiles): string {
    const { hypervisor, network } = this.#host;
    const kind = request.networkEnabled ? network.mode : "none";
    const spec = placeholderSpec(request.shape, kind, this.#host);
    const compatibility = hypervisor.restoring?.compatibilityOf(spec);
    const { workspaceMib } = request.shape;
    const baseMib = memoryBaseMib(spec.memoryMib, hypervisor);
    const base = baseMib === spec.memoryMib ? [] : [baseMib];
    const parts = [compatibility, files, workspaceMib, protocolVersion, templateWarmUps, warmUpVersion, ...base];
    return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
  }

  /** Undefined: the template does not exist, and making it takes as long as a boot. */
  async find(key: string): Promise<StoredSnapshot | undefined> {
    try {
      const found = await this.#host.templates.find(key);
      if (found !== undefined) await this.#verifier.verify(found);
      return found;
    } catch (error) {
      if (!isSandboxError(error, "incompatible")) throw error;
      this.#host.log("warn", "a template is damaged and will be made again", { template: key, error: String(error) });
      await this.#host.templates.remove(key);
      return undefined;
    }
  }

  /** Records that a sandbox is started from the template, or from a ready machine that was. */
  recordUse(key: string): void {
    recordUse(join(this.#host.templatesDirectory, key));
  }

  /** Finds the template or makes it. An abort of `signal` ends only the wait: other callers may need the template. */
  async provide(
    key: string,
    request: TemplateRequest,
    onProgress: (progress: Progress) => void,
    signal: AbortSignal,
  ): Promise<HeldTemplate> {
    for (;;) {
      const present = await this.find(key);
      const held = present === undefined ? undefined : await holdTemplate(present, signal);
      if (held !== undefined) return held;
      let making = this.#making.get(key);
      if (making === undefined) {
        making = this.#make(key, request).finally(() => this.#making.delete(key));
        this.#making.set(key, making);
      }
      onProgress({ step: `preparing ${request.image} with ${request.shape.memoryMib} MiB for fast starts, once` });
      await orAborted(making, signal, ({ reason }) => asSandboxError(reason));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort(new SandboxError("canceled", "the worker is ending"));
    await Promise.allSettled(this.#making.values());
  }

  async #make(key: string, request: TemplateRequest): Promise<StoredSnapshot> {
    const host = this.#host;
    const signal = this.#ending.signal;
    using _lock = await lockFile(await lockOf(host, key), { wait: true }, signal);
    const madeMeanwhile = await this.find(key);
    if (madeMeanwhile !== undefined) return madeMeanwhile;

    if (host.bootFiles === undefined) throw new Error(`the hypervisor ${host.hypervisor.name} boots no files`);
    const { image, shape } = request;
    const wanted = { image, workspaceMib: shape.workspaceMib };
    using boot = await holdBootFiles(host.bootFiles, wanted, () => undefined, signal);

    const id = newMachineId();
    await writeEntry(host.dataDirectory, { machineId: id, workerId: host.workerId, ephemeral: true });
    const spans = new Spans();
    const machine = { id, ...request, tenantGroup: undefined };
    await using live = await bootMachine(machine, boot.files, host, spans, signal);
    // Runs the clone-only steps now, to warm them.
    const identity = { id: "template", hostname: imageHostname, envs: {}, copied: true, hooks: noHooks };
    // Without the host's extra authorities: sandboxes take them when they start, so a template outlives their change.
    await introduceGuest(live, identity, "boot", { bootTimeoutMs: host.bootTimeoutMs }, signal);
    if (bootsOnOneProcessor(shape.vcpus, host.hypervisor.restoring)) {
      // A processor that comes online for the first time takes five times as long as later.
      await limitGuest(live, shape.vcpus, signal);
      // The template's own processors; a sandbox's are brought online when it starts.
      await limitGuest(live, templateProcessors, signal);
    }
    spans.end("guest");
    await warmUpTemplate(live.guest, host.log, signal);
    spans.end("warm-up");
    const { snapshot } = await storeSnapshot(
      live,
      host.templates,
      {
        ...{ id: key, contents: "memory and disks", afterwards: "paused", tenant: undefined },
        beforePublish: (capture, directory) => withBase(capture, directory, request.shape, host),
      },
      host,
      signal,
    );
    spans.end("capture");
    this.#onMade();
    host.log("info", "template made", { template: key, image: request.image, spans: spans.list });
    return snapshot;
  }
}

/** A template that no collector removes until it is disposed. */
export interface HeldTemplate extends Disposable {
  readonly snapshot: StoredSnapshot;
}

/** Holds the template. Dispose it when a machine has links of its own to the files. Undefined: the template is gone. */
export async function holdTemplate(snapshot: StoredSnapshot, signal?: AbortSignal): Promise<HeldTemplate | undefined> {
  const hold = await holdDirectory(snapshot.directory, signal);
  return hold && { snapshot, [Symbol.dispose]: () => hold[Symbol.dispose]() };
}

/** Whether a process makes the template. Several workers may share the directory without knowing each other. */
export async function isBeingMade(host: Pick<Host, "templatesDirectory">, key: string): Promise<boolean> {
  using lock = await lockFile(await lockOf(host, key), { wait: false });
  return lock === undefined;
}

export async function lockOf(host: Pick<Host, "templatesDirectory">, key: string): Promise<string> {
  const locks = join(host.templatesDirectory, "locks");
  await mkdir(locks, { recursive: true, mode: 0o700 });
  return join(locks, key);
}

/** Turns the captured memory into a base, which the machines of the template map. */
async function withBase(capture: MachineCapture, directory: string, shape: Shape, host: Host): Promise<MachineCapture> {
  if (capture.memory?.delta === undefined) throw new Error("the capture of a template has no memory delta");
  const { delta, ...memory } = capture.memory;
  const memoryBase = await materialize(directory, delta, shape, host);
  const files = await withMemoryBase(capture.files, memoryBase, join(directory, memoryBase));
  return { ...capture, files, memory };
}

/** Makes a memory base from the delta in the same directory, in its place. Returns the base's name. */
async function materialize(directory: string, delta: StoredFile, shape: Shape, host: Host): Promise<string> {
  const made = "memory.base";
  const bytes = shape.memoryMib * 2 ** 20;
  {
    // Pages that the guest never touched stay holes.
    await using image = await open(join(directory, made), "wx", 0o600);
    await image.truncate(memoryBaseMib(shape.memoryMib, host.hypervisor) * 2 ** 20);
  }
  const path = join(directory, delta.file);
  await host.memory.overwrite({ ...delta, path }, join(directory, made), bytes);
  await rm(path);
  await rm(join(directory, imageFiles.memoryBase));
  await seal(join(directory, made), undefined);
  return made;
}

/** A VM of the shape with placeholder files: compatibility does not depend on them. */
function placeholderSpec(shape: Shape, network: "none" | "user" | "tap", { agentTransport, hypervisor }: Host): VmSpec {
  const noTap = (): number => {
    throw new Error("a placeholder has no TAP device");
  };
  return {
    directory: "/",
    vcpus: shape.vcpus,
    memoryMib: shape.memoryMib,
    hotplugMib: maxHotplugMib(shape.memoryMib),
    memoryBase: "/memory",
    kernel: "/kernel",
    initramfs: "/initramfs",
    bootArguments: bootArguments(shape.vcpus, hypervisor.restoring),
    disks: imageFiles.disks.map(({ name, base, writable }) => ({
      name,
      base,
      layers: writable ? [`/${name}.qcow2`] : [],
    })),
    network: network === "tap" ? { kind: "tap", namespace: "/", device: "tap", openTap: noTap } : { kind: network },
    ...(agentTransport === "vsock" ? { vsock: { cid: 3 } } : {}),
  };
}
