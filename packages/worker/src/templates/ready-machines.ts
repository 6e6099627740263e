import type { ReadyMachinesState } from "@opensandbox/wire/worker/worker.ts";
import type { StoredSnapshot } from "#snapshots/snapshot-store.ts";
import { failpoint } from "#host/failpoints.ts";
import type { IdleTime } from "#host/idle-time.ts";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { Host } from "#machine/host.ts";
import { imageHostname } from "#guest/guest-identity.ts";
import { introduceGuest } from "#machine/introduce-guest.ts";
import { writeEntry } from "#machine/journal.ts";
import type { LiveMachine } from "#machine/live-machine.ts";
import { Spans } from "#machine/spans.ts";
import { newMachineId, restoreMachine } from "#machine/start-machine.ts";
import { holdTemplate, type TemplateRequest } from "./templates.ts";
import { runOnce } from "./warm-up.ts";

/** How often waiting machines are checked. */
const checkMs = 30_000;

/**
 * Machines that are restored from one template and wait, paused, to become a sandbox. The pool keeps machines of the
 * template that was requested last and fills up in idle time, one machine at a time.
 */
export class ReadyMachines implements AsyncDisposable {
  readonly #host: Host;
  readonly #size: number;
  readonly #idle: IdleTime;
  #ready: LiveMachine[] = [];
  #wanted: { readonly key: string; readonly template: StoredSnapshot; readonly request: TemplateRequest } | undefined;
  #filling: Promise<void> | undefined;
  readonly #ending = new AbortController();
  readonly #checks: NodeJS.Timeout;

  constructor(host: Host, size: number, idle: IdleTime) {
    this.#host = host;
    this.#size = size;
    this.#idle = idle;
    this.#checks = setInterval(() => void this.#check(), checkMs);
    this.#checks.unref();
  }

  get state(): ReadyMachinesState {
    const counts = { wanted: this.#size, ready: this.#ready.length };
    if (this.#wanted === undefined) return counts;
    const { image, shape } = this.#wanted.request;
    return { ...counts, image, memoryMib: shape.memoryMib, vcpus: shape.vcpus };
  }

  /** Takes a machine of that template, which the caller owns from now on. Undefined: none is ready. */
  claim(key: string): LiveMachine | undefined {
    if (this.#wanted?.key !== key) return undefined;
    const machine = this.#ready.shift();
    this.#fill();
    return machine;
  }

  /** Keeps machines of this template from now on, and ends those of an earlier one. */
  want(key: string, template: StoredSnapshot, request: TemplateRequest): void {
    if (this.#wanted?.key !== key) {
      for (const machine of this.#ready.splice(0)) this.#end(machine);
      this.#wanted = { key, template, request };
    }
    this.#fill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#checks);
    this.#ending.abort();
    await this.#filling;
    await Promise.all(this.#ready.splice(0).map((machine) => machine[Symbol.asyncDispose]()));
  }

  #fill(): void {
    if (this.#filling !== undefined || this.#ending.signal.aborted) return;
    if (this.#wanted === undefined || this.#ready.length >= this.#size) return;
    this.#filling = this.#idle
      .untilIdle(this.#ending.signal)
      .then(() => this.#addOne())
      .then(
        () => true,
        (error: unknown) => {
          if (!this.#ending.signal.aborted) {
            this.#host.log("warn", "cannot make a ready machine", describeError(error));
          }
          return false;
        },
      )
      .then((added) => {
        this.#filling = undefined;
        // After a failure the next sandbox triggers another attempt.
        if (added) this.#fill();
      });
  }

  async #addOne(): Promise<void> {
    const wanted = this.#wanted;
    this.#ending.signal.throwIfAborted();
    if (wanted === undefined) return;
    const { key, template, request } = wanted;
    // Leaves memory for a sandbox that is requested meanwhile.
    using _promised = await this.#host.admission.admit(2 * request.shape.memoryMib);
    using held = await holdTemplate(template, this.#ending.signal);
    // The next create makes the template again.
    if (held === undefined) return void (this.#wanted = undefined);
    const id = newMachineId();
    const { dataDirectory, workerId } = this.#host;
    await writeEntry(dataDirectory, { machineId: id, workerId, ephemeral: true });
    const machine = await restoreMachine(
      { id, ...request, tenantGroup: undefined },
      template,
      this.#host,
      new Spans(),
      this.#ending.signal,
    );
    await using undo = new AsyncDisposableStack();
    undo.use(machine);
    await warm(machine, this.#ending.signal);
    if (this.#wanted?.key !== key) return;
    undo.move();
    this.#ready.push(machine);
    await failpoint("machine is ready");
    void machine.vm.exited.then(() => this.#drop(machine));
  }

  /** Drops machines whose process does not answer. */
  async #check(): Promise<void> {
    for (const machine of this.#ready) {
      // A paused machine only answers the command.
      await machine.vm.pause().catch(() => this.#drop(machine));
    }
  }

  #drop(machine: LiveMachine): void {
    const at = this.#ready.indexOf(machine);
    if (at < 0) return;
    this.#ready.splice(at, 1);
    this.#end(machine);
    this.#fill();
  }

  #end(machine: LiveMachine): void {
    machine[Symbol.asyncDispose]().catch((error: unknown) => {
      this.#host.log("error", "cannot remove a ready machine", describeError(error));
    });
  }
}

/**
 * Commands that a first caller is likely to run, found by name as callers do. First runs are slow under emulation, and
 * one of them meets the agent's first garbage collection: after six runs no run is slower than the next.
 */
const warmUps: readonly (readonly [string, ...string[]])[] = [
  ...Array.from({ length: 6 }, () => ["sh", "-c", "true"] as const),
  ["sh", "-c", "! command -v node >/dev/null || node --version"],
  ["sh", "-c", "! command -v python3 >/dev/null || python3 -c ''"],
];

/**
 * Lets a restored machine answer and run a few commands before it waits, so that page faults and the emulator's
 * translation of code happen now. The machine gets its identity and entropy again when it is claimed.
 */
async function warm(live: LiveMachine, signal: AbortSignal): Promise<void> {
  await live.vm.resume();
  await introduceGuest(live, { id: live.id, hostname: imageHostname, envs: {}, copied: true }, "restore", signal);
  for (const argv of warmUps) await runOnce(live.guest, argv, signal);
  await live.vm.pause();
}
