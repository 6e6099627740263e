import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { copyFile, open, readdir, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { suite, test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { processesOf } from "#host/kill-by-path.ts";
import { MemoryThreads } from "#snapshots/memory-threads.ts";
import { isSandboxError, type SandboxError } from "@opensandbox/wire/errors.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import type { CapturedVm, Capturing, Hypervisor, Vm, VmExit, VmSpec } from "./hypervisor.ts";
import type { GuestMemory } from "./guest-memory.ts";

/** A hypervisor to test, and the VMs that it can start. Disposing it removes their files. */
export interface ContractStand extends AsyncDisposable {
  readonly hypervisor: Hypervisor;
  /** Directories of VMs are made below it. */
  readonly directory: string;
  /** A VM of 256 MiB in a new directory of its own. With `disks` it has two writable ones, `first` and `second`. */
  readonly newSpec: (wishes?: { readonly disks?: boolean; readonly hotplugMib?: number }) => Promise<VmSpec>;
  /** Makes an empty layer for a disk of `spec`, named by its number. */
  readonly makeLayer: (spec: VmSpec, disk: string, number: number) => Promise<string>;
  /** What the console shows when a guest can be captured; absent: its first line. */
  readonly captureAfter?: RegExp;
  /** Hotplug is refused until the guest's driver is up, which the guests of the contract do not load. */
  readonly hotplugNeedsDriver?: boolean;
  /** VMs whose guest ends by itself, and what its console shows then; absent where there is no guest. */
  readonly ending?: Readonly<Record<"shutdown" | "panicked", (spec: VmSpec) => { spec: VmSpec; console: RegExp }>>;
}

/** Deadline for anything that a test waits for: a guest boots under emulation, on a busy host. */
const timeoutMs = 120_000;

const never = new AbortController().signal;

/**
 * Everything that the rest of the worker relies on, for any hypervisor. Cases for an ability that a hypervisor lacks are
 * skipped. The fake runs the contract always, QEMU where it is installed, Firecracker where a test host has it and KVM.
 */
export function hypervisorContract(
  name: string,
  stand: () => Promise<ContractStand>,
  options: { readonly skip?: string | false } = {},
): void {
  suite(`${name}: processes`, options, () => processCases(stand));
  suite(`${name}: exits`, options, () => exitCases(stand));
  suite(`${name}: adoption`, options, () => adoptionCases(stand));
  suite(`${name}: restore`, options, () => restoreCases(stand));
  suite(`${name}: disk layers`, options, () => layerCases(stand));
  suite(`${name}: memory`, options, () => memoryCases(stand));
}

function processCases(stand: () => Promise<ContractStand>): void {
  test("a VM is a process until it is disposed, and disposing it twice does nothing more", async () => {
    await using standing = await stand();
    const vm = await bootPaused(standing);
    // Finds the process by its command line, as the cases below find a process that is left.
    assert.deepEqual(await processesOf(standing.directory), [vm.pid]);
    await vm[Symbol.asyncDispose]();
    await vm[Symbol.asyncDispose]();
    assert.deepEqual(await vm.exited, { reason: "killed", detail: "" });
    assert.equal(existsSync(`/proc/${vm.pid}`), false);
  });

  test("the agent channel that ends at the hypervisor opens as soon as the VM is booted", async (t) => {
    await using standing = await stand();
    await using vm = await standing.hypervisor.boot(await standing.newSpec(), never);
    if (vm.agentTransport.endsAt !== "hypervisor") return t.skip("it ends at the agent");
    const socket = await vm.agentTransport.open(AbortSignal.timeout(10_000));
    socket.destroy();
  });

  test("pausing a paused VM and resuming a running one do nothing", async () => {
    await using standing = await stand();
    await using vm = await standing.hypervisor.boot(await standing.newSpec(), never);
    await vm.pause();
    await vm.pause();
    await vm.resume();
    await vm.resume();
    assert.ok(existsSync(`/proc/${vm.pid}`));
  });

  test("disposing one VM leaves another one running", async () => {
    await using standing = await stand();
    await using kept = await bootPaused(standing);
    const other = await bootPaused(standing);
    await other[Symbol.asyncDispose]();
    await kept.resume();
    await kept.pause();
    assert.ok(existsSync(`/proc/${kept.pid}`));
  });

  test("an abort before the boot leaves no process and no file", async () => {
    await using standing = await stand();
    const spec = await standing.newSpec();
    const before = await readdir(spec.directory);
    await refused(standing.hypervisor.boot(spec, AbortSignal.abort()));
    assert.deepEqual(await processesOf(spec.directory), []);
    assert.deepEqual(await readdir(spec.directory), before);
  });

  test("an abort during the boot leaves no process", async () => {
    await using standing = await stand();
    const spec = await standing.newSpec();
    const abort = new AbortController();
    const booting = standing.hypervisor.boot(spec, abort.signal);
    // The process is on its way, and its monitor has not answered yet.
    abort.abort();
    await refused(booting);
    assert.deepEqual(await processesOf(spec.directory), []);
  });

  test("a boot in a directory that does not exist fails, and is not reported as canceled", async () => {
    await using standing = await stand();
    const spec = { ...(await standing.newSpec()), directory: "/nonexistent/machine" };
    await refused(
      standing.hypervisor.boot(spec, never),
      (error) => error instanceof Error && !isSandboxError(error, "canceled"),
    );
  });

  test("the console of a VM that runs can be read again and again", async () => {
    await using standing = await stand();
    await using vm = await bootPaused(standing);
    const first = await vm.console();
    assert.ok((await vm.console()).startsWith(first));
    assert.ok(first.length <= 64 * 1024);
  });
}

function exitCases(stand: () => Promise<ContractStand>): void {
  test("a process that is killed from outside has died, and the signal is named", async () => {
    await using standing = await stand();
    await using vm = await bootPaused(standing);
    process.kill(vm.pid, "SIGKILL");
    const { reason, detail } = await exitOf(vm);
    assert.equal(reason, "died");
    assert.match(detail, /SIGKILL/);
  });

  test("disposing a VM that has died keeps its exit", async () => {
    await using standing = await stand();
    const vm = await bootPaused(standing);
    process.kill(vm.pid, "SIGKILL");
    const { reason } = await exitOf(vm);
    await vm[Symbol.asyncDispose]();
    assert.equal(reason, "died");
    assert.deepEqual((await vm.exited).reason, "died");
  });

  for (const reason of ["shutdown", "panicked"] as const) {
    test(`a guest that ends by itself is ${reason}, and its console can still be read`, async (t) => {
      await using standing = await stand();
      const ending = standing.ending?.[reason](await standing.newSpec());
      if (ending === undefined) return t.skip("it has no guest");
      await using vm = await standing.hypervisor.boot(ending.spec, never);
      assert.equal((await exitOf(vm)).reason, reason);
      assert.match(await vm.console(), ending.console);
    });
  }
}

function adoptionCases(stand: () => Promise<ContractStand>): void {
  test("a released VM keeps running", async () => {
    await using standing = await stand();
    const spec = await standing.newSpec();
    const vm = await standing.hypervisor.boot(spec, never);
    await vm.pause();
    vm.release();
    try {
      await sleep(100);
      assert.ok(existsSync(`/proc/${vm.pid}`));
    } finally {
      await vm[Symbol.asyncDispose]();
    }
  });

  test("an adopted VM is paused, resumed and disposed like one that was booted here", async (t) => {
    await using standing = await stand();
    const { adopt } = standing.hypervisor;
    if (adopt === undefined) return t.skip("it adopts no VM");
    const spec = await standing.newSpec();
    const booted = await standing.hypervisor.boot(spec, never);
    await booted.pause();
    booted.release();
    const vm = await adopt(spec, [booted.pid], AbortSignal.timeout(timeoutMs));
    assert.equal(vm.pid, booted.pid);
    await vm.resume();
    await vm.pause();
    await vm[Symbol.asyncDispose]();
    assert.equal((await vm.exited).reason, "killed");
    assert.deepEqual(await processesOf(spec.directory), []);
  });

  test("an adopted VM that is killed from outside has died", async (t) => {
    await using standing = await stand();
    const { adopt } = standing.hypervisor;
    if (adopt === undefined) return t.skip("it adopts no VM");
    const spec = await standing.newSpec();
    const booted = await standing.hypervisor.boot(spec, never);
    await booted.pause();
    booted.release();
    await using vm = await adopt(spec, [booted.pid], AbortSignal.timeout(timeoutMs));
    process.kill(vm.pid, "SIGKILL");
    assert.equal((await exitOf(vm)).reason, "died");
  });

  test("adopting a process that has ended is refused as unavailable", async (t) => {
    await using standing = await stand();
    const { adopt } = standing.hypervisor;
    if (adopt === undefined) return t.skip("it adopts no VM");
    const spec = await standing.newSpec();
    const booted = await standing.hypervisor.boot(spec, never);
    await booted[Symbol.asyncDispose]();
    await refused(adopt(spec, [booted.pid], AbortSignal.timeout(timeoutMs)), refusedAs("unavailable"));
  });
}

function restoreCases(stand: () => Promise<ContractStand>): void {
  test("VMs of one shape are compatible in any directory, VMs of two shapes are not", async (t) => {
    await using standing = await stand();
    const { restoring } = standing.hypervisor;
    if (restoring === undefined) return t.skip("it restores no VM");
    const [one, other] = [await standing.newSpec({ disks: true }), await standing.newSpec({ disks: true })];
    const text = restoring.compatibilityOf(one);
    assert.equal(restoring.compatibilityOf(other), text);
    for (const changed of [
      { ...other, vcpus: 2 },
      { ...other, memoryMib: 512 },
      { ...other, hotplugMib: 512 },
      { ...other, disks: other.disks.slice(1) },
    ]) {
      assert.notEqual(restoring.compatibilityOf(changed), text);
    }
  });

  test("a prepared process that is disposed before it is restored leaves no process", async (t) => {
    await using standing = await stand();
    const { restoring } = standing.hypervisor;
    if (restoring === undefined) return t.skip("it restores no VM");
    const spec = await standing.newSpec();
    const prepared = await restoring.prepare(spec, never);
    assert.ok(existsSync(`/proc/${prepared.pid}`));
    await prepared[Symbol.asyncDispose]();
    assert.deepEqual(await processesOf(spec.directory), []);
    await refused(restoring.prepare(await standing.newSpec(), AbortSignal.abort()));
    assert.deepEqual(await processesOf(standing.directory), []);
  });

  test("a state that is cut short is refused as incompatible", async (t) => {
    await using standing = await stand();
    const { restoring } = standing.hypervisor;
    const captured = await capture(standing);
    if (restoring === undefined || captured === undefined) return t.skip("it restores no VM");
    await truncate(captured.devices, Math.floor((await stat(captured.devices)).size / 2));
    const spec = await standing.newSpec();
    const unfilled = await unfilledIn(spec, captured.devices);
    await using prepared = await restoring.prepare(spec, never);
    await assert.rejects(prepared.restore(unfilled, never), refusedAs("incompatible"));
  });

  test("an abort of a restore is reported, and the process goes with the prepared VM", async (t) => {
    await using standing = await stand();
    const { restoring } = standing.hypervisor;
    const captured = await capture(standing);
    if (restoring === undefined || captured === undefined) return t.skip("it restores no VM");
    const spec = await standing.newSpec();
    const unfilled = await unfilledIn(spec, captured.devices);
    {
      await using prepared = await restoring.prepare(spec, never);
      await assert.rejects(prepared.restore(unfilled, AbortSignal.abort()));
    }
    assert.deepEqual(await processesOf(spec.directory), []);
  });

  test("a restored guest continues where it was captured", async (t) => {
    await using standing = await stand();
    const { hypervisor, ending, captureAfter = firstLine } = standing;
    const { restoring } = hypervisor;
    const end = ending?.shutdown(await standing.newSpec());
    if (restoring === undefined || end === undefined) return t.skip("it restores no guest");
    await using threads = new MemoryThreads();
    const captured = await capture(standing, { threads, spec: end.spec, console: captureAfter });
    if (captured === undefined) return t.skip("it captures no VM");

    const { directory, kernel, initramfs, memoryBase } = await standing.newSpec();
    const spec = { ...end.spec, directory, kernel, initramfs, memoryBase };
    const unfilled = await unfilledIn(spec, captured.devices);
    await using prepared = await restoring.prepare(spec, never);
    using delta = await threads.load(captured.memory.file, captured.memory.sha256, captured.memory.bytes);
    const fillMemory = async (memory: GuestMemory): Promise<void> => delta.apply(memory);
    await using vm = await prepared.restore({ ...unfilled, fillMemory }, never);
    assert.equal(await vm.console(), "", "the VM is paused");
    await vm.resume();
    assert.equal((await exitOf(vm)).reason, "shutdown");
    const console = await vm.console();
    assert.match(console, end.console);
    assert.doesNotMatch(console, firstLine, "it did not boot again");
  });
}

/** A captured VM whose memory is the base, for a VM that may see only its own directory. */
async function unfilledIn({ directory }: VmSpec, devices: string): Promise<CapturedVm> {
  const deviceState = join(directory, "captured-devices");
  await copyFile(devices, deviceState);
  return { deviceState, hotplugged: false, fillMemory: async () => undefined };
}

/** The first line that Linux prints. */
const firstLine = /Linux version/;

function layerCases(stand: () => Promise<ContractStand>): void {
  test("each disk has the layers that the VM was booted with", async (t) => {
    await withDisks(t, stand, async ({ capturing, spec }) => {
      assert.deepEqual(await capturing.readChains(), chainsOf(spec));
    });
  });

  test("after a switch all disks write to the layers that were opened", async (t) => {
    await withDisks(t, stand, async ({ capturing, spec, next }) => {
      const switches = await next(2);
      await capturing.openLayers(switches.map((one) => one.next));
      await capturing.switchLayers(switches);
      const chains = chainsOf(spec, [2]);
      assert.deepEqual(await capturing.readChains(), chains);
      // A second layer goes over the first.
      const again = await next(3);
      await capturing.openLayers(again.map((one) => one.next));
      await capturing.switchLayers(again);
      assert.deepEqual(await capturing.readChains(), chainsOf(spec, [2, 3]));
    });
  });

  test("layers that were opened and not switched to are closed, and can be opened again", async (t) => {
    await withDisks(t, stand, async ({ capturing, spec, next }) => {
      const switches = await next(2);
      await capturing.openLayers(switches.map((one) => one.next));
      assert.deepEqual(await capturing.readChains(), chainsOf(spec));
      await capturing.openLayers(switches.map((one) => one.next));
      await capturing.switchLayers(switches);
      assert.deepEqual(await capturing.readChains(), chainsOf(spec, [2]));
    });
  });

  test("an enlarged disk keeps its layers, and the other disk its size", async (t) => {
    await withDisks(t, stand, async ({ vm, capturing, spec }) => {
      if (vm.enlargeDisk === undefined) return t.skip("its disks keep their size");
      const [first, second] = spec.disks.map(({ layers }) => layers.at(-1)!);
      const before = await virtualBytes(second!);
      await vm.enlargeDisk(first!, 3 * before);
      assert.deepEqual([await virtualBytes(first!), await virtualBytes(second!)], [3 * before, before]);
      assert.deepEqual(await capturing.readChains(), chainsOf(spec));
    });
  });

  test("a switch that fails for one disk changes none", async (t) => {
    await withDisks(t, stand, async ({ capturing, spec, next }) => {
      const switches = await next(2);
      // The second disk's layer is not open.
      await capturing.openLayers(switches.slice(0, 1).map((one) => one.next));
      await assert.rejects(capturing.switchLayers(switches));
      assert.deepEqual(await capturing.readChains(), chainsOf(spec));
    });
  });

  test("a merge leaves the top, the layer that it copied into, and what lies at and below the base", async (t) => {
    await withDisks(t, stand, async ({ capturing, spec, next }) => {
      for (const number of [2, 3, 4]) {
        const switches = await next(number);
        await capturing.openLayers(switches.map((one) => one.next));
        await capturing.switchLayers(switches);
      }
      const path = (disk: string, number: number): string => layerOf(spec, disk, number);
      const into = mergedInto(capturing, 4);
      await capturing.merge({ disk: "first", into: path("first", into), base: path("first", 1) }, never);
      await capturing.merge({ disk: "second", into: path("second", into) }, never);
      const left = (disk: string): string[] => [...new Set([into, 4])].map((number) => path(disk, number));
      const chains = new Map([["first", [path("first", 1), ...left("first")]]]).set("second", left("second"));
      assert.deepEqual(await capturing.readChains(), chains);
    });
  });

  test("a merge that is aborted ends, and the disk can be switched and merged again", async (t) => {
    await withDisks(t, stand, async ({ capturing, spec, next }) => {
      const switchTo = async (number: number): Promise<void> => {
        const switches = await next(number);
        await capturing.openLayers(switches.map((one) => one.next));
        await capturing.switchLayers(switches);
      };
      const merge = async (top: number, signal: AbortSignal): Promise<void> =>
        await capturing.merge({ disk: "first", into: layerOf(spec, "first", mergedInto(capturing, top)) }, signal);
      await switchTo(2);
      await switchTo(3);
      await assert.rejects(merge(3, AbortSignal.abort(new Error("not now"))), /not now/);
      const abort = new AbortController();
      const merging = merge(3, abort.signal);
      abort.abort(new Error("not now"));
      // The copying of an empty disk may end before it is aborted.
      await merging.catch((error: unknown) => assert.match(String(error), /not now/));
      await switchTo(4);
      await merge(4, never);
      const left = [...new Set([mergedInto(capturing, 4), 4])].map((number) => layerOf(spec, "first", number));
      assert.deepEqual((await capturing.readChains()).get("first"), left);
    });
  });

  test("an adopted VM reports the layers that the earlier worker switched to, and closes those it only opened", async (t) => {
    await using standing = await stand();
    const { adopt } = standing.hypervisor;
    const spec = await standing.newSpec({ disks: true });
    const booted = await standing.hypervisor.boot(spec, never);
    await booted.pause();
    if (adopt === undefined || booted.capturing === undefined) {
      await booted[Symbol.asyncDispose]();
      return t.skip("it adopts or captures no VM");
    }
    const switches = await nextLayers(standing, spec, 2);
    await booted.capturing.openLayers(switches.map((one) => one.next));
    await booted.capturing.switchLayers(switches);
    await booted.capturing.openLayers((await nextLayers(standing, spec, 3)).map((one) => one.next));
    booted.release();
    await using vm = await adopt(spec, [booted.pid], AbortSignal.timeout(timeoutMs));
    assert.deepEqual(await vm.capturing?.readChains(), chainsOf(spec, [2]));
  });
}

/** The number of the layer that a merge copies into, on a disk whose top has the number `top`. */
function mergedInto({ mergesInto }: Capturing, top: number): number {
  return mergesInto === "top" ? top : top - 1;
}

function memoryCases(stand: () => Promise<ContractStand>): void {
  test("the guest's memory is in the process in one piece, and may be captured with the devices", async (t) => {
    await using standing = await stand();
    const spec = await standing.newSpec();
    await using vm = await standing.hypervisor.boot(spec, never);
    await vm.pause();
    const { capturing } = vm;
    if (capturing === undefined) return t.skip("it captures no VM");
    const { pid, regions } = await capturing.memory(false);
    assert.deepEqual([pid, regions.map(({ bytes }) => bytes)], [vm.pid, [spec.memoryMib * 2 ** 20]]);
    const file = join(spec.directory, "devices");
    await capturing.saveDevices(file);
    assert.ok((await stat(file)).size > 0);
  });

  test("memory that the guest may receive is requested, and is a second region", async (t) => {
    await using standing = await stand();
    const spec = await standing.newSpec({ hotplugMib: 512 });
    await using vm = await standing.hypervisor.boot(spec, never);
    await vm.pause();
    const { hotplug, capturing } = vm;
    if (hotplug === undefined) return t.skip("its guests keep their memory");
    assert.deepEqual(await hotplug.state(), { requestedMib: 0, presentMib: 0 });
    const regions = async (hotplugged: boolean): Promise<readonly number[]> =>
      ((await capturing?.memory(hotplugged))?.regions ?? []).map(({ bytes }) => bytes / 2 ** 20);
    assert.deepEqual(await regions(false), [spec.memoryMib]);
    assert.deepEqual(await regions(true), [spec.memoryMib, 512]);
    if (standing.hotplugNeedsDriver === true)
      return t.diagnostic("it passes requests to a guest's driver, which is missing");
    await hotplug.request(128);
    assert.deepEqual(await hotplug.state(), { requestedMib: 128, presentMib: 0 });
    await assert.rejects(hotplug.request(1024), "more than the spec allows");
  });

  test("a VM whose spec has no hotplug memory offers no hotplug", async () => {
    await using standing = await stand();
    await using vm = await bootPaused(standing);
    assert.equal(vm.hotplug, undefined);
  });
}

/** Boots a VM and pauses it before its guest can end. */
async function bootPaused({ hypervisor, newSpec }: ContractStand): Promise<Vm> {
  const vm = await hypervisor.boot(await newSpec(), never);
  await vm.pause();
  return vm;
}

/** Captures devices, and with `threads` memory, of a VM that has printed `console`. Undefined: VMs cannot be captured. */
async function capture(
  { hypervisor, directory, newSpec }: ContractStand,
  wishes: { readonly threads?: MemoryThreads; readonly spec?: VmSpec; readonly console?: RegExp } = {},
) {
  const spec = wishes.spec ?? (await newSpec());
  await using vm = await hypervisor.boot(spec, never);
  const { capturing } = vm;
  if (capturing === undefined) return undefined;
  if (wishes.console !== undefined) {
    const expected = wishes.console;
    await eventually(`${expected.source} on the console`, async () => expected.test(await vm.console()), {
      withinMs: timeoutMs,
      everyMs: 20,
    });
  }
  await vm.pause();
  const [devices, file] = [join(spec.directory, "devices"), join(directory, "memory.delta")];
  // The VM's process writes it, as a user that reaches only its own directory.
  await capturing.saveDevices(devices);
  if (wishes.threads === undefined) return { devices, memory: { file, sha256: "", bytes: 0 } };
  using turn = await wishes.threads.captureTurn();
  const { sha256 } = await turn.capture({ memory: await capturing.memory(false), file, hold: true }).stored;
  return { devices, memory: { file, sha256, bytes: spec.memoryMib * 2 ** 20 } };
}

interface WithDisks {
  readonly vm: Vm;
  readonly capturing: Capturing;
  readonly spec: VmSpec;
  /** Makes the layers of that number, to come over those of the number before. */
  readonly next: (number: number) => ReturnType<typeof nextLayers>;
}

async function withDisks(
  t: TestContext,
  stand: () => Promise<ContractStand>,
  work: (with_: WithDisks) => Promise<void>,
): Promise<void> {
  await using standing = await stand();
  const spec = await standing.newSpec({ disks: true });
  await using vm = await standing.hypervisor.boot(spec, never);
  await vm.pause();
  const { capturing } = vm;
  if (capturing === undefined) return t.skip("it captures no VM");
  await work({ vm, capturing, spec, next: (number) => nextLayers(standing, spec, number) });
}

/** The size of the disk in a qcow2 layer's header. */
async function virtualBytes(layer: string): Promise<number> {
  await using file = await open(layer);
  const { buffer } = await file.read(Buffer.alloc(8), 0, 8, 24);
  return Number(buffer.readBigUInt64BE());
}

async function nextLayers({ makeLayer }: ContractStand, spec: VmSpec, number: number) {
  return await Promise.all(
    spec.disks.map(async ({ name: disk }) => ({
      disk,
      top: layerOf(spec, disk, number - 1),
      next: await makeLayer(spec, disk, number),
    })),
  );
}

/** The layers that the disks of `spec` were booted with, and over them those of further numbers. */
function chainsOf(spec: VmSpec, numbers: readonly number[] = []): ReadonlyMap<string, readonly string[]> {
  return new Map(
    spec.disks.map(({ name, layers }) => [name, [...layers, ...numbers.map((number) => layerOf(spec, name, number))]]),
  );
}

/** The path of a disk's layer; those that a VM is booted with have the number 1. */
export function layerOf({ directory }: VmSpec, disk: string, number: number): string {
  return join(directory, `${disk}-${number}.qcow2`);
}

async function exitOf(vm: Vm): Promise<VmExit> {
  const late = new AbortController();
  const tooLate = sleep(timeoutMs, undefined, { signal: late.signal, ref: false }).then(() =>
    assert.fail("waited in vain for the VM to exit"),
  );
  tooLate.catch(() => undefined);
  try {
    return await Promise.race([vm.exited, tooLate]);
  } finally {
    late.abort();
  }
}

/** Asserts that a call returns no VM. If it does return one, the VM is disposed, so that the test ends. */
async function refused(call: Promise<AsyncDisposable>, as: (error: unknown) => boolean = () => true): Promise<void> {
  void call.then(
    (vm) => vm[Symbol.asyncDispose](),
    () => undefined,
  );
  await assert.rejects(call, as);
}

function refusedAs(code: SandboxError["code"]) {
  return (error: unknown): true => (isSandboxError(error, code) ? true : assert.fail(String(error)));
}
