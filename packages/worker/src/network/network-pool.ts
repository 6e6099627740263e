import { setTimeout as delay } from "node:timers/promises";
import { adoptSlot, becomeSlotOwner, claimSlot, type Slot } from "#host/slots.ts";
import { IdleTime } from "#host/idle-time.ts";
import { asSandboxError } from "@opensandbox/wire/errors.ts";
import { closeHostNetwork, keepHostNetworkOpen } from "./host-firewall.ts";
import { hostResolvers } from "./names/host-resolvers.ts";
import { defaultLimits, type NetworkLimits } from "./namespace-rules.ts";
import { SandboxNetwork } from "./sandbox-network.ts";
import { GuestServices } from "./services/guest-services.ts";
import { makeSlotNetwork, removeSlotNetworks } from "./slot-network.ts";

export interface NetworkPoolOptions {
  /** Networks that are kept ready beyond those in use. */
  readonly spare: number;
  /**
   * When the host is idle, the second half of the spare networks is made and used networks are removed. The first half
   * is refilled at once.
   */
  readonly idle?: IdleTime;
  readonly limits?: NetworkLimits;
  /** The cgroups that the guest-facing services run in; absent: those of this process. */
  readonly servicesEntrances?: readonly string[];
  /** The program of the guest-facing services; tests give it faults. */
  readonly servicesModule?: string;
  /** Authorities that hosts of secrets may have, besides the well-known ones. PEM. Default: none. */
  readonly secretAuthorities?: string;
  readonly log: (level: "info" | "warn" | "error", message: string, fields?: object) => void;
}

/** Networks being made at the same time; each takes four programs, one after the other. */
const maxConcurrent = 4;

/** How long the services of a killed worker may keep a network's addresses. */
const adoptTimeoutMs = 5000;
const adoptRetryMs = 10;

/** With this many networks to remove, removal no longer waits for idle time. */
const maxLeaving = 16;

/**
 * Networks that are made ahead of time, so that a machine gets one without starting a program, and removed in the
 * background. Disposing the pool ends the guest-facing services and removes unused networks. Networks of machines that
 * keep running stay, for the next worker to adopt.
 */
export class NetworkPool implements AsyncDisposable {
  readonly #options: NetworkPoolOptions;
  readonly #limits: NetworkLimits;
  readonly services: GuestServices;
  /** The owner of slots that no machine has: this process. */
  readonly #owner: string;
  readonly #owned: AsyncDisposableStack;
  readonly #spare: Slot[] = [];
  readonly #waiting: PromiseWithResolvers<Slot>[] = [];
  readonly #making = new Set<Promise<void>>();
  #fillingLater: Promise<void> | undefined;
  #leaving: Slot[] = [];
  #crowded = new AbortController();
  #removing: Promise<void> | undefined;
  readonly #idle: IdleTime;
  readonly #ending = new AbortController();

  private constructor(options: NetworkPoolOptions, owner: string, owned: AsyncDisposableStack) {
    this.#options = options;
    this.#limits = options.limits ?? defaultLimits;
    this.#idle = options.idle ?? new IdleTime();
    const { log, servicesModule: module, servicesEntrances: cgroupEntrances } = options;
    this.services = new GuestServices({
      log,
      openResolver: hostResolvers(),
      ...(module === undefined ? {} : { module }),
      ...(cgroupEntrances === undefined ? {} : { cgroupEntrances }),
    });
    this.#owner = owner;
    this.#owned = owned;
  }

  /** Sets the host's rules and starts to make networks. @throws `unavailable` when the host's rules cannot be set */
  static async open(options: NetworkPoolOptions): Promise<NetworkPool> {
    await using undo = new AsyncDisposableStack();
    undo.defer(closeHostNetwork);
    undo.use(await keepHostNetworkOpen(options.log));
    const { owner } = undo.use(await becomeSlotOwner());
    const pool = new NetworkPool(options, owner, undo.move());
    pool.#fill();
    return pool;
  }

  /**
   * A network for the machine whose files are in `machineDirectory`, which must exist. Nothing leaves it until a policy is
   * set. @throws `no_capacity` or `unavailable` when none can be made
   */
  async claim(machineDirectory: string): Promise<SandboxNetwork> {
    const slot = this.#spare.shift() ?? (await this.#next());
    this.#fill();
    try {
      await slot.assign(machineDirectory);
      return this.#networkOf(slot, machineDirectory, "");
    } catch (error) {
      this.#leave(slot);
      throw error;
    }
  }

  /** The network of a machine that another worker started. @throws `not_found` when the slot is not the machine's */
  async adopt(machineDirectory: string, number: number): Promise<SandboxNetwork> {
    const { slot, state } = await adoptSlot(number, machineDirectory);
    for (const deadline = performance.now() + adoptTimeoutMs; ;) {
      try {
        return this.#networkOf(slot, machineDirectory, state);
      } catch (error) {
        // The services of a killed worker are killed by the kernel, some milliseconds after it.
        if (!isAddressInUse(error) || performance.now() > deadline) throw error;
        await delay(adoptRetryMs);
      }
    }
  }

  /** Resolves when no network is being made or removed. */
  async settled(): Promise<void> {
    while (this.#making.size > 0 || this.#fillingLater !== undefined || this.#removing !== undefined) {
      await Promise.allSettled([...this.#making, this.#fillingLater, this.#removing]);
      // Another network may begin when one is finished.
      await Promise.resolve();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ending.abort();
    // No guest is served any more, and no process keeps a namespace.
    await this.services[Symbol.asyncDispose]();
    await Promise.allSettled(this.#making);
    for (const slot of this.#spare.splice(0)) this.#leave(slot);
    await this.#removing;
    await this.#owned.disposeAsync();
  }

  #networkOf(slot: Slot, owner: string, state: string): SandboxNetwork {
    return new SandboxNetwork(
      { number: slot.number, state, keep: (state) => slot.assign(owner, state) },
      { services: this.services, log: this.#options.log, secretAuthorities: this.#options.secretAuthorities ?? "" },
      async () => {
        // The slot must name another owner, because the machine's directory is about to be removed.
        await slot.assign(this.#owner);
        this.#leave(slot);
      },
    );
  }

  async #next(): Promise<Slot> {
    const waiting = Promise.withResolvers<Slot>();
    this.#waiting.push(waiting);
    this.#fill();
    return await waiting.promise;
  }

  #fill(): void {
    const { spare } = this.#options;
    this.#fillUpTo(Math.floor(spare / 2));
    if (this.#spare.length + this.#making.size >= this.#waiting.length + spare) return;
    this.#fillingLater ??= this.#idle.untilIdle(this.#ending.signal).then(() => {
      this.#fillingLater = undefined;
      this.#fillUpTo(spare);
    });
  }

  #fillUpTo(spare: number): void {
    const wanted = (): number => this.#waiting.length + spare - this.#spare.length - this.#making.size;
    while (!this.#ending.signal.aborted && wanted() > 0 && this.#making.size < maxConcurrent) {
      const making = this.#makeOne().finally(() => this.#making.delete(making));
      this.#making.add(making);
    }
  }

  async #makeOne(): Promise<void> {
    let slot: Slot;
    try {
      slot = await this.#make();
    } catch (error) {
      const waiting = this.#waiting.shift();
      if (waiting !== undefined) waiting.reject(error);
      else this.#options.log("warn", "cannot prepare a network in advance", { error: asSandboxError(error).message });
      return;
    }
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) waiting.resolve(slot);
    else this.#spare.push(slot);
    // Deferred, because this promise is still in #making although its result is in #spare or with a waiting claim.
    queueMicrotask(() => this.#fill());
  }

  async #make(): Promise<Slot> {
    await using undo = new AsyncDisposableStack();
    const slot = undo.use(await claimSlot(this.#owner));
    await makeSlotNetwork(slot.number, this.#limits);
    undo.move();
    return slot;
  }

  #leave(slot: Slot): void {
    this.#leaving.push(slot);
    if (this.#leaving.length >= maxLeaving) this.#crowded.abort();
    this.#removing ??= this.#remove();
  }

  /** Removes the gathered networks together. One that cannot be removed is left to the next start. */
  async #remove(): Promise<void> {
    // Networks that are given back in the same turn are removed together.
    await Promise.resolve();
    while (this.#leaving.length > 0) {
      await this.#idle.untilIdle(AbortSignal.any([this.#ending.signal, this.#crowded.signal]));
      this.#crowded = new AbortController();
      const slots = this.#leaving;
      this.#leaving = [];
      try {
        await removeSlotNetworks(slots.map(({ number }) => number));
        for (const slot of slots) await slot[Symbol.asyncDispose]();
      } catch (error) {
        this.#options.log("error", "cannot remove networks: the next start tries again", {
          slots: slots.map(({ number }) => number),
          error: asSandboxError(error).message,
        });
      }
    }
    this.#removing = undefined;
  }
}

function isAddressInUse(error: unknown): boolean {
  const { cause } = error as { readonly cause?: { readonly code?: unknown } };
  return cause?.code === "EADDRINUSE";
}
