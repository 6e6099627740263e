import { mkdir, open, rm } from "node:fs/promises";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { lockFile } from "#host/file-lock.ts";
import type { VmSpec } from "#hypervisor/hypervisor.ts";
import { type Shape, withMemoryBase } from "#snapshots/manifest.ts";
import type { Verifier } from "#snapshots/verify.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { asSandboxError, isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { protocolVersion } from "@opensandbox/wire/guest/methods.ts";
import type { Progress } from "@opensandbox/wire/worker/worker.ts";
import { bootArguments } from "#machine/boot-arguments.ts";
import type { MachineCapture } from "#machine/capture-machine.ts";
import type { BootFiles, Host } from "#machine/host.ts";
import { maxHotplugMib } from "#machine/hotplug.ts";
import { imageHostname } from "#guest/guest-identity.ts";
import { introduceGuest } from "#machine/introduce-guest.ts";
import { writeEntry } from "#machine/journal.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import { imageFiles, seal } from "#machine/machine-files.ts";
import { storeSnapshot } from "#machine/store-snapshot.ts";
import { Spans } from "#machine/spans.ts";
import { bootMachine, newMachineId } from "#machine/start-machine.ts";
import { runOnce, useFilesOnce } from "./warm-up.ts";

/** What templates differ in. */
export interface TemplateRequest {
  readonly image: string;
  readonly shape: Shape;
  readonly networkEnabled: boolean;
}

/**
 * Machines that have booted once and were captured ready to use: what every sandbox of an image and a shape is restored
 * from. Each is made when it is first asked for, by one process for all that ask.
 */
export class Templates implements AsyncDisposable {
  readonly #host: Host;
  readonly #verifier: Verifier;
  readonly #making = new Map<string, Promise<StoredSnapshot>>();
  readonly #ending = new AbortController();

  constructor(host: Host, verifier: Verifier) {
    this.#host = host;
    this.#verifier = verifier;
  }

  /** Whether a template can be made and used on this host at all. */
  get possible(): boolean {
    return this.#host.hypervisor.restoring !== undefined && this.#host.bootFiles !== undefined;
  }

  /** Names the template that a request leads to; equal keys are the same template. */
  keyOf(request: TemplateRequest, files: BootFiles): string {
    const { hypervisor, network } = this.#host;
    const kind = request.networkEnabled ? network.mode : "none";
    const compatibility = hypervisor.restoring?.compatibilityOf(exampleSpec(request.shape, kind));
    const parts = [compatibility, files, protocolVersion, warmUps, warmUpVersion];
    return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
  }

  /** Undefined: it has to be made first, which takes as long as a boot. */
  async find(key: string): Promise<StoredSnapshot | undefined> {
    try {
      const found = await this.#host.templates.find(key);
      if (found !== undefined) await this.#verifier.verify(found);
      return found;
    } catch (error) {
      if (!isSandboxError(error, "incompatible")) throw error;
      // A damaged one is made again.
      this.#host.log("warn", "a template is damaged and is made again", { template: key, error: String(error) });
      await this.#host.templates.remove(key);
      return undefined;
    }
  }

  /** The template, made when it is not there. Who gives up waiting does not end the making. */
  async provide(
    key: string,
    request: TemplateRequest,
    files: BootFiles,
    onProgress: (progress: Progress) => void,
    signal: AbortSignal,
  ): Promise<StoredSnapshot> {
    const present = await this.find(key);
    if (present !== undefined) return present;
    let making = this.#making.get(key);
    if (making === undefined) {
      making = this.#make(key, request, files).finally(() => this.#making.delete(key));
      this.#making.set(key, making);
    }
    onProgress({ step: `preparing ${request.image} with ${request.shape.memoryMib} MiB for fast starts, once` });
    return await orAborted(making, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort(new SandboxError("canceled", "the worker is ending"));
    await Promise.allSettled(this.#making.values());
  }

  async #make(key: string, request: TemplateRequest, files: BootFiles): Promise<StoredSnapshot> {
    const host = this.#host;
    const signal = this.#ending.signal;
    using _lock = await lockFile(await lockOf(host, key), { wait: true }, signal);
    const madeMeanwhile = await this.find(key);
    if (madeMeanwhile !== undefined) return madeMeanwhile;

    const id = newMachineId();
    await writeEntry(host.dataDirectory, { machineId: id, workerId: host.workerId, ephemeral: true });
    const spans = new Spans();
    const machine = { id, ...request, organizationId: undefined };
    await using live = await bootMachine(machine, files, host, spans, signal);
    // As a copy, although it is none: what copies do is done once then.
    await introduceGuest(live, { id: "template", hostname: imageHostname, envs: {}, copied: true }, "boot", signal);
    spans.end("guest");
    await warmUp(live, signal);
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
    host.log("info", "template made", { template: key, image: request.image, spans: spans.list });
    return snapshot;
  }
}

/** Whether some process makes the template: the directory may be that of several workers, who do not know each other. */
export async function isBeingMade(host: Pick<Host, "templatesDirectory">, key: string): Promise<boolean> {
  using lock = await lockFile(await lockOf(host, key), { wait: false });
  return lock === undefined;
}

async function lockOf(host: Pick<Host, "templatesDirectory">, key: string): Promise<string> {
  const locks = join(host.templatesDirectory, "locks");
  await mkdir(locks, { recursive: true, mode: 0o700 });
  return join(locks, key);
}

/** Turns the captured memory into a base, which the machines of the template map. */
async function withBase(capture: MachineCapture, directory: string, shape: Shape, host: Host): Promise<MachineCapture> {
  if (capture.memory?.delta === undefined) throw new Error("a template has memory");
  const { delta, ...memory } = capture.memory;
  const memoryBase = await materialize(directory, delta.file, shape, host);
  const files = await withMemoryBase(capture.files, memoryBase, join(directory, memoryBase));
  return { ...capture, files, memory };
}

/** Makes a base of the memory of a guest that has booted, in the directory that has its delta. Returns its name there. */
async function materialize(directory: string, delta: string, shape: Shape, host: Host): Promise<string> {
  const made = "memory.base";
  const bytes = shape.memoryMib * 2 ** 20;
  {
    // What the guest never touched is a hole in the file.
    await using image = await open(join(directory, made), "wx", 0o600);
    await image.truncate(bytes);
  }
  await host.memory.overwrite(join(directory, delta), join(directory, made), bytes);
  await rm(join(directory, delta));
  await rm(join(directory, imageFiles.memoryBase));
  await seal(join(directory, made), undefined);
  return made;
}

/** Raised when guests are warmed up in another way, and templates that were not are to be made again. */
const warmUpVersion = 2;

/**
 * Run in a guest that has just booted: what they read stays in its memory, which all sandboxes of the template share,
 * and the agent has done everything once that it does for a first caller. What its JavaScript does for the first time
 * has to be compiled before, in each copy again.
 */
const warmUps: readonly (readonly [string, ...string[]])[] = [
  ["/bin/sh", "-c", "echo; ls -la / >/dev/null; id >/dev/null"],
  ["/bin/sh", "-c", "sudo true"],
  ["/bin/bash", "-lc", "true"],
  ["/bin/sh", "-c", "! command -v python3 >/dev/null || python3 -c 'import json, os, subprocess, ssl'"],
  ["/bin/sh", "-c", "! command -v node >/dev/null || node -e 'fetch'"],
  ["/bin/sh", "-c", "! command -v git >/dev/null || git --version >/dev/null"],
  ["/bin/sh", "-c", "true"],
];

async function warmUp(live: LiveMachine, signal: AbortSignal): Promise<void> {
  for (const argv of warmUps) {
    const { exitCode, timedOut } = await runOnce(live.guest, argv, signal);
    if (exitCode !== 0 || timedOut) {
      throw new SandboxError("unavailable", `${argv.join(" ")} does not work in a guest that has booted`);
    }
  }
  await useFilesOnce(live.guest, signal);
}

/** A machine of the shape, without files: what decides whether memory fits does not depend on them. */
function exampleSpec(shape: Shape, network: "none" | "user" | "tap"): VmSpec {
  const noTap = (): number => {
    throw new Error("an example has no TAP");
  };
  return {
    directory: "/",
    vcpus: shape.vcpus,
    memoryMib: shape.memoryMib,
    hotplugMib: maxHotplugMib(shape.memoryMib),
    memoryBase: "/memory",
    kernel: "/kernel",
    initramfs: "/initramfs",
    bootArguments,
    disks: imageFiles.disks.map(({ name, base, writable }) => ({
      name,
      base,
      layers: writable ? [`/${name}.qcow2`] : [],
    })),
    network: network === "tap" ? { kind: "tap", namespace: "/", openTap: noTap } : { kind: network },
  };
}

async function orAborted<Value>(promise: Promise<Value>, signal: AbortSignal): Promise<Value> {
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(asSandboxError(signal.reason));
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
