import { describeError, isSandboxError } from "@opensandbox/wire/errors.ts";
import type { SandboxId } from "@opensandbox/wire/ids.ts";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import { resizeSandbox } from "#sandboxes/scale-sandbox.ts";
import { chooseMemory, isCalm, type MemoryLoad } from "./choose-memory.ts";

/** The agent's cgroup of all commands. */
const cgroup = "/sys/fs/cgroup/sandbox";
/** Deadline for asking a guest, in milliseconds. */
const askMs = 10_000;
/** The guest's files are shorter; a hostile one is not read further. */
const maxBytes = 16_384;
/** How long a sandbox keeps its size after a change that was refused, in milliseconds. */
const refusedMs = 120_000;

/** What is remembered of a sandbox between two rounds, in milliseconds of the monotonic clock. */
interface History {
  readonly calmSince?: number;
  readonly notBefore?: number;
}

/** Sets the memory of running sandboxes with autoscale by the load of their commands. It counts as no use of them. */
export class AutoscaleSweep {
  readonly #context: SandboxContext;
  readonly #busy = new Set<SandboxId>();
  #histories = new Map<SandboxId, History>();

  constructor(context: SandboxContext) {
    this.#context = context;
  }

  /** Begins with every sandbox, and waits for none: a guest that hangs holds up only its own sandbox. */
  async run(): Promise<void> {
    const { stores, placement, operations } = this.#context;
    const sandboxes = (await stores.sandboxes.listAutoscaled()).filter(({ workerId }) => placement.includes(workerId));
    const ids = new Set(sandboxes.map(({ id }) => id));
    this.#histories = new Map([...this.#histories].filter(([id]) => ids.has(id)));
    for (const sandbox of sandboxes) {
      const { id } = sandbox;
      if (this.#busy.has(id)) continue;
      this.#busy.add(id);
      operations.background.run("setting the memory of a sandbox by its load", { sandbox: id }, () =>
        this.#fit(sandbox).finally(() => this.#busy.delete(id)),
      );
    }
  }

  async #fit(sandbox: Sandbox): Promise<void> {
    const { clock, log } = this.#context;
    const { id, memoryMib } = sandbox;
    const { calmSince, notBefore = 0 } = this.#histories.get(id) ?? {};
    if (clock.elapsed() < notBefore) return;
    try {
      const load = await this.#loadOf(id);
      const isLow = isCalm(load);
      const since = isLow ? (calmSince ?? clock.elapsed()) : undefined;
      this.#histories.set(id, since === undefined ? {} : { calmSince: since });
      const calmMs = since === undefined ? 0 : clock.elapsed() - since;
      if (wantedMib(sandbox, { ...load, calmMs }) === memoryMib) return;
      const refusal = await this.#resize(id, { ...load, calmMs });
      if (refusal === undefined) this.#histories.delete(id);
      else this.#refused(id, { because: refusal });
    } catch (error) {
      // A sandbox that was hibernated or deleted meanwhile.
      if (isSandboxError(error, "not_found") || isSandboxError(error, "wrong_state")) return;
      if (isSandboxError(error, "unavailable")) log("warn", "cannot ask a guest for its load", { sandbox: id });
      this.#refused(id, describeError(error));
    }
  }

  #refused(id: SandboxId, because: object): void {
    const { clock, log } = this.#context;
    this.#histories.set(id, { notBefore: clock.elapsed() + refusedMs });
    log("warn", "a sandbox keeps its memory, although its load asks for another size", { sandbox: id, ...because });
  }

  /** Undefined: it has the size now. Otherwise why it cannot have less. */
  async #resize(id: SandboxId, load: MemoryLoad): Promise<string | undefined> {
    const { operations, stores } = this.#context;
    return await operations.gates.run(id, async () => {
      const sandbox = await stores.sandboxes.find(id);
      // It may have been scaled, locked or hibernated meanwhile.
      if (sandbox?.state !== "running" || sandbox.autoscale?.enabled !== true) return undefined;
      const memoryMib = wantedMib(sandbox, load);
      if (memoryMib === sandbox.memoryMib) return undefined;
      const outcome = await resizeSandbox(this.#context, sandbox, { memoryMib });
      return outcome.done ? undefined : (outcome.because ?? "");
    });
  }

  async #loadOf(id: SandboxId): Promise<Omit<MemoryLoad, "calmMs">> {
    const [stat, current, limit, pressure] = await Promise.all([
      this.#read(id, "memory.stat"),
      this.#read(id, "memory.current"),
      this.#read(id, "memory.max"),
      // A kernel without PSI has no such file.
      this.#read(id, "memory.pressure").catch((error: unknown) => {
        if (isSandboxError(error, "not_found") || isSandboxError(error, "not_supported")) return "";
        throw error;
      }),
    ]);
    const bytes = (name: string): number => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(stat)?.[1] ?? 0);
    const cached = bytes("inactive_file") + bytes("active_file") + bytes("slab_reclaimable");
    const waited = Number(/^some avg10=(\d+(?:\.\d+)?)/m.exec(pressure)?.[1] ?? 0);
    const use = Math.max(0, Number.parseInt(current, 10) - cached) / Number.parseInt(limit, 10);
    // What is no number changes nothing.
    return { use, pressure: waited };
  }

  async #read(id: SandboxId, file: string): Promise<string> {
    const signal = AbortSignal.timeout(askMs);
    const opened = await this.#context.worker.guest(id).files.read(`${cgroup}/${file}`, { length: maxBytes }, signal);
    return Buffer.concat(await Array.fromAsync(opened.content)).toString("latin1");
  }
}

/** Bounds that were not given are the present size. */
function wantedMib({ memoryMib, autoscale }: Sandbox, load: MemoryLoad): number {
  const { minMemoryMib: minMib = memoryMib, maxMemoryMib: maxMib = memoryMib } = autoscale ?? {};
  return chooseMemory({ memoryMib, minMib, maxMib }, load);
}
