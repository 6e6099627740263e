import { totalmem } from "node:os";
import { describeError } from "@opensandbox/wire/errors.ts";
import type { ReadyMachinesState, ReadyTemplate } from "@opensandbox/wire/worker/worker.ts";
import { neededMib } from "#host/admission.ts";
import { failpoint } from "#host/failpoints.ts";
import type { IdleTime } from "#host/idle-time.ts";
import type { Log } from "#host/log.ts";
import type { Vm } from "#hypervisor/hypervisor.ts";
import { DecayingCount, shareOut } from "./demand.ts";

/** How often waiting machines are checked, and those that nothing has asked for lately are ended. */
const checkMs = 30_000;

/** A use of a template counts half after this time. */
const halfLifeMs = 600_000;

/** A template in less demand has no ready machines. One that was used once reaches it after a half-life. */
const minDemand = 0.5;

/** Share of the host's memory for ready machines. They give it back when a sandbox needs it. */
const memoryShare = 0.5;

/** A machine that waits, paused, to become a sandbox. */
export interface WaitingMachine extends AsyncDisposable {
  readonly vm: Pick<Vm, "exited" | "pause">;
}

/** A template that sandboxes start from, and the way to its ready machines. */
export interface ReadySource<Machine extends WaitingMachine> extends Pick<
  ReadyTemplate,
  "image" | "memoryMib" | "vcpus"
> {
  /** Makes a machine that waits. Undefined: the template is gone, and the next create makes it again. */
  readonly make: (signal: AbortSignal) => Promise<Machine | undefined>;
}

export interface ReadyMachinesOptions {
  /** How many machines each template in demand has. */
  readonly perTemplate: number;
  readonly idle: Pick<IdleTime, "untilIdle">;
  readonly log: Log;
  /** Memory for all ready machines, in MiB. Absent: half of the host's. */
  readonly budgetMib?: number;
  /** The present time in milliseconds. Absent: the clock of this process. */
  readonly now?: () => number;
}

interface Template<Machine extends WaitingMachine> {
  source: ReadySource<Machine>;
  readonly uses: DecayingCount;
  readonly ready: Machine[];
  /** The last attempt to make a machine failed, and no sandbox has used the template since. */
  failed: boolean;
}

/**
 * Machines that are restored from templates and wait, paused, to become sandboxes. Each template that sandboxes have used
 * lately has some. They are made in idle time, one at a time.
 */
export class ReadyMachines<Machine extends WaitingMachine> implements AsyncDisposable {
  readonly #perTemplate: number;
  readonly #idle: Pick<IdleTime, "untilIdle">;
  readonly #log: Log;
  readonly #budgetMib: number;
  readonly #now: () => number;
  readonly #templates = new Map<string, Template<Machine>>();
  #filling: Promise<void> | undefined;
  readonly #ends = new Set<Promise<void>>();
  readonly #ending = new AbortController();
  readonly #checks: NodeJS.Timeout;

  constructor({ perTemplate, idle, log, budgetMib, now = () => performance.now() }: ReadyMachinesOptions) {
    this.#perTemplate = perTemplate;
    this.#idle = idle;
    this.#log = log;
    this.#budgetMib = budgetMib ?? (totalmem() / 2 ** 20) * memoryShare;
    this.#now = now;
    this.#checks = setInterval(() => void this.check(), checkMs);
    this.#checks.unref();
  }

  get state(): ReadyMachinesState {
    const wanted = this.#wanted();
    const templates = this.#byDemand().map(([key, { source, ready }]) => {
      const { image, memoryMib, vcpus } = source;
      return { image, memoryMib, vcpus, wanted: wanted.filter((each) => each === key).length, ready: ready.length };
    });
    const ready = templates.reduce((sum, template) => sum + template.ready, 0);
    return { wanted: wanted.length, ready, templates };
  }

  /** Counts a use of the template, then yields its machines. The caller owns each one that it takes. */
  *claims(key: string): Generator<Machine> {
    const template = this.#templates.get(key);
    if (template === undefined) return;
    template.uses.add(this.#now());
    template.failed = false;
    for (let machine = template.ready.shift(); machine !== undefined; machine = template.ready.shift()) {
      this.#fill();
      yield machine;
    }
    this.#fill();
  }

  /** Keeps machines of the template that a sandbox starts from, while it is in demand. */
  want(key: string, source: ReadySource<Machine>): void {
    if (this.#perTemplate === 0) return;
    const known = this.#templates.get(key);
    if (known === undefined) {
      const uses = new DecayingCount(halfLifeMs);
      uses.add(this.#now());
      this.#templates.set(key, { source, uses, ready: [], failed: false });
    } else {
      known.source = source;
    }
    this.#fill();
  }

  /** Ends one machine of the template in the least demand, to free its memory. False: there is none to end. */
  async giveBack(): Promise<boolean> {
    for (const [, { ready }] of this.#byDemand().toReversed()) {
      const machine = ready.pop();
      if (machine === undefined) continue;
      await this.#end(machine);
      return true;
    }
    return false;
  }

  /** Drops machines whose process does not answer, and ends those of templates that are no longer in demand. */
  async check(): Promise<void> {
    for (const [key, { uses }] of this.#templates) {
      if (uses.at(this.#now()) < minDemand) this.#forget(key);
    }
    this.#endSurplus();
    for (const template of this.#templates.values()) {
      // A paused machine only answers the command.
      for (const machine of [...template.ready]) await machine.vm.pause().catch(() => this.#drop(template, machine));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#checks);
    this.#ending.abort();
    await this.#filling;
    for (const key of this.#templates.keys()) this.#forget(key);
    await Promise.all(this.#ends);
  }

  #byDemand(): [string, Template<Machine>][] {
    const now = this.#now();
    return [...this.#templates].toSorted(([, a], [, b]) => b.uses.at(now) - a.uses.at(now));
  }

  /** One key for each machine that should be ready, the most urgent first. */
  #wanted(): readonly string[] {
    const now = this.#now();
    const templates = [...this.#templates].map(([key, { uses, source }]) => ({
      ...{ key, demand: uses.at(now), neededMib: neededMib(source.memoryMib) },
    }));
    return shareOut(templates, { perTemplate: this.#perTemplate, budgetMib: this.#budgetMib });
  }

  /** The template of the next machine to make. */
  #next(): [string, Template<Machine>] | undefined {
    const counted = new Map<string, number>();
    for (const key of this.#wanted()) {
      const count = (counted.get(key) ?? 0) + 1;
      counted.set(key, count);
      const template = this.#templates.get(key);
      if (template !== undefined && !template.failed && template.ready.length < count) return [key, template];
    }
    return undefined;
  }

  #fill(): void {
    if (this.#filling !== undefined || this.#ending.signal.aborted || this.#next() === undefined) return;
    this.#filling = this.#fillOne().finally(() => {
      this.#filling = undefined;
      this.#fill();
    });
  }

  async #fillOne(): Promise<void> {
    const { signal } = this.#ending;
    await this.#idle.untilIdle(signal);
    // Sandboxes may have taken machines, or used other templates, until now.
    const next = this.#next();
    if (next === undefined || signal.aborted) return;
    this.#endSurplus();
    const [key, template] = next;
    try {
      const machine = await template.source.make(signal);
      if (machine === undefined) this.#forget(key);
      else await this.#add(key, template, machine);
    } catch (error) {
      if (signal.aborted) return;
      template.failed = true;
      this.#log("warn", "cannot make a ready machine", { image: template.source.image, ...describeError(error) });
    }
  }

  async #add(key: string, template: Template<Machine>, machine: Machine): Promise<void> {
    if (this.#templates.get(key) !== template || this.#ending.signal.aborted) return await this.#end(machine);
    template.ready.push(machine);
    void machine.vm.exited.then(() => this.#drop(template, machine));
    await failpoint("machine is ready");
  }

  #forget(key: string): void {
    for (const machine of this.#templates.get(key)?.ready.splice(0) ?? []) void this.#end(machine);
    this.#templates.delete(key);
  }

  #endSurplus(): void {
    const wanted = this.#wanted();
    for (const [key, { ready }] of this.#templates) {
      const count = wanted.filter((each) => each === key).length;
      for (const machine of ready.splice(count)) void this.#end(machine);
    }
  }

  #drop({ ready }: Template<Machine>, machine: Machine): void {
    const at = ready.indexOf(machine);
    if (at < 0) return;
    ready.splice(at, 1);
    void this.#end(machine);
    this.#fill();
  }

  /** Never rejects. */
  async #end(machine: Machine): Promise<void> {
    const end = (async () => {
      try {
        await machine[Symbol.asyncDispose]();
      } catch (error) {
        this.#log("error", "cannot remove a ready machine", describeError(error));
      }
    })();
    this.#ends.add(end);
    await end;
    this.#ends.delete(end);
  }
}
