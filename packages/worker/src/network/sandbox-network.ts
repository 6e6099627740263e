import { readFileSync } from "node:fs";
import { Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { inNetworkNamespace, openTap } from "#host/libc.ts";
import { setNeighbour } from "#host/neighbours.ts";
import { changeSets } from "#host/netfilter.ts";
import { openTcpListener, openTcpSocket, openUdpSocket } from "#host/sockets.ts";
import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import { parseIpv4 } from "@opensandbox/wire/ipv4.ts";
import type { NetworkRefusal } from "@opensandbox/wire/worker/worker.ts";
import { devices, inner, macBytes, slotNames } from "./address-plan.ts";
import { answerMetadata, type MetadataServiceOptions, type MetadataSource, serveMetadata } from "./metadata-service.ts";
import { sets, table, webProxyPort } from "./namespace-rules.ts";
import { NetworkRecord, type Refusal } from "./network-record.ts";
import type { AskResolvers } from "./names/host-resolvers.ts";
import { serveNames } from "./names/name-server.ts";
import { PinnedNames } from "./names/pinned-names.ts";
import { closedPolicy, type CompiledPolicy, compilePolicy, isPublicIpv4 } from "./policy.ts";
import { addressKey, type AppliedPolicy, policyChanges } from "./policy-sets.ts";
import { serveWeb, type WebProxy, type WebTarget } from "./web/web-proxy.ts";

type Log = (level: "info" | "warn" | "error", message: string, fields?: object) => void;

/** A prepared slot, as the one that uses it sees it. */
interface PreparedSlot {
  readonly number: number;
  /** What was kept with it by a worker before this one; empty: nothing. */
  readonly state: string;
  keep(state: string): Promise<void>;
}

/** What is kept for the next worker. */
interface KeptState {
  readonly policy: NetworkPolicy;
  readonly epoch: number;
  /** When the first policy was set, in milliseconds since 1970. */
  readonly since: number;
}

/**
 * The network of one machine. Until its guest is admitted and a policy is set nothing leaves it. Disposing it ends its
 * services and gives it back to be removed; the machine's process must have ended.
 */
export class SandboxNetwork implements AsyncDisposable {
  readonly slot: number;
  /** As the hypervisor takes it. */
  readonly attachment: { readonly kind: "tap"; readonly namespace: string; openTap(): number };
  readonly #where: { readonly table: string; readonly namespace: string };
  readonly #prepared: PreparedSlot;
  readonly #giveBack: () => Promise<void>;
  readonly #log: Log;
  readonly #pinned: PinnedNames;
  readonly #record: NetworkRecord;
  readonly #services = new DisposableStack();
  #applied: AppliedPolicy = { policy: compilePolicy(closedPolicy), epoch: 0 };
  #since = 0;
  #web: WebProxy | undefined;
  #metadata: MetadataSource | undefined;

  constructor(prepared: PreparedSlot, ask: AskResolvers, log: Log, giveBack: () => Promise<void>) {
    const { namespaceFile: namespace } = slotNames(prepared.number);
    this.slot = prepared.number;
    this.attachment = { kind: "tap", namespace, openTap: () => openTap(devices.tap) };
    this.#prepared = prepared;
    this.#log = log;
    this.#giveBack = giveBack;
    this.#where = { table, namespace };
    this.#pinned = new PinnedNames(this.#where);
    this.#record = new NetworkRecord(this.#where);
    if (prepared.state === "") this.#refuseHost();
    else this.#takeOver(JSON.parse(prepared.state) as KeptState);
    try {
      const refuse = (refusal: Refusal): void => this.#record.add(refusal);
      const policy = (): CompiledPolicy => this.#applied.policy;
      const at = { address: inner.nameServer, port: 53 };
      const datagrams = openUdpSocket(namespace, at);
      const streams = openTcpListener(namespace, at);
      const defect = (error: unknown): void => this.#reportDefect(error);
      this.#services.use(
        serveNames({ sockets: { datagrams, streams }, ask, pinned: this.#pinned, policy, refuse, defect }),
      );
      const listener = openTcpListener(namespace, { address: inner.metadata, port: 80 });
      const answer: MetadataServiceOptions["answer"] = (endpoint, body) =>
        answerMetadata(this.#metadata, endpoint, body);
      this.#services.use(serveMetadata({ listener, answer, defect }));
      if (this.#applied.policy.namesDecide) this.#serveWeb();
    } catch (error) {
      this.#services[Symbol.dispose]();
      throw error;
    }
  }

  /** When the machine was given to its sandbox, in milliseconds since 1970: when its first policy was set. */
  get since(): number {
    return this.#since;
  }

  get policy(): NetworkPolicy {
    return this.#applied.policy.policy;
  }

  /**
   * Holds the sandbox to `policy` from now on: no packet is judged by a part of it, and connections that it does not
   * allow are cut. @throws `invalid_argument` for rules that are wrong; then nothing has changed
   */
  async setPolicy(policy: NetworkPolicy): Promise<void> {
    const applied = { policy: compilePolicy(policy), epoch: this.#applied.epoch + 1 };
    // Before the kernel sends anything there.
    if (applied.policy.namesDecide) this.#serveWeb();
    const before = this.#applied;
    const pins = this.#pinned.retain((name) => applied.policy.namesDecide && applied.policy.allowsName(name));
    changeSets(this.#where, [...policyChanges(before, applied), ...pins]);
    this.#applied = applied;
    this.#web?.judgeAgain();
    if (this.#since === 0) this.#since = Date.now();
    const kept: KeptState = { policy, epoch: applied.epoch, since: this.#since };
    await this.#prepared.keep(JSON.stringify(kept));
  }

  /** Hears the guest under this MAC address, and sends to it there. Admitting it again does nothing. */
  admit(mac: string): void {
    const bytes = macBytes(mac);
    changeSets({ ...this.#where, family: "netdev" }, [{ set: sets.macs, add: [{ key: bytes }] }]);
    // What the guest says by ARP is not asked for.
    setNeighbour(this.#where.namespace, { device: devices.tap, address: addressKey(inner.guest), mac: bytes });
  }

  /** Says whose machine it is, to the guest itself. */
  identify(source: MetadataSource | undefined): void {
    this.#metadata = source;
  }

  /** What the guest has sent and received, in bytes. */
  traffic(): { readonly sentBytes: number; readonly receivedBytes: number } {
    return inNetworkNamespace(this.#where.namespace, () => {
      const line = readFileSync("/proc/thread-self/net/dev", "utf8")
        .split("\n")
        .find((text) => text.trim().startsWith(`${devices.tap}:`));
      // The device's view: what it receives the guest has sent.
      const numbers = (line ?? "").split(":").at(-1)?.trim().split(/\s+/).map(Number) ?? [];
      return { sentBytes: numbers[0] ?? 0, receivedBytes: numbers[8] ?? 0 };
    });
  }

  /** What was refused within the last hour, the newest first. */
  refusals(): readonly NetworkRefusal[] {
    return this.#record.list();
  }

  /** Ends its services and leaves the network to the process that takes the machine over. */
  release(): void {
    this.#services[Symbol.dispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#services[Symbol.dispose]();
    await this.#giveBack();
  }

  /** The host's own public addresses look like any other on the internet. */
  #refuseHost(): void {
    const addresses = Object.values(networkInterfaces())
      .flatMap((list) => list ?? [])
      .filter(({ family, address }) => family === "IPv4" && isPublicIpv4(parseIpv4(address) ?? 0))
      .map(({ address }) => address);
    const unique = [...new Set(addresses)];
    if (unique.length === 0) return;
    changeSets(this.#where, [{ set: sets.host, add: unique.map((address) => ({ key: addressKey(address) })) }]);
  }

  /** The kernel has gone on by the policy of the worker before. */
  #takeOver({ policy, epoch, since }: KeptState): void {
    this.#since = since;
    this.#applied = { policy: compilePolicy(policy), epoch };
    this.#pinned.inherit();
  }

  #serveWeb(): void {
    if (this.#web !== undefined) return;
    const { namespace } = this.#where;
    const at = { address: "0.0.0.0", port: webProxyPort };
    this.#web = this.#services.use(
      serveWeb({
        listener: openTcpListener(namespace, at, { transparent: true }),
        policy: () => this.#applied.policy,
        connect: (target) => Promise.try(() => this.#connect(target)),
        refuse: (refusal) => this.#record.add(refusal),
        defect: (error) => this.#reportDefect(error),
      }),
    );
  }

  #connect({ name, address, port }: WebTarget): { readonly socket: Socket } | { readonly refusal: string } {
    const { policy } = this.#applied;
    if (!policy.open && !this.#pinned.has(name ?? "", parseIpv4(address) ?? 0)) {
      return { refusal: "the address is not one of this name" };
    }
    const socket = new Socket({ fd: openTcpSocket(this.#where.namespace), allowHalfOpen: true });
    socket.setTimeout(connectTimeoutMs, () => socket.destroy(new Error("no connection in time")));
    socket.once("connect", () => socket.setTimeout(0));
    return { socket: socket.connect(port, address) };
  }

  #reportDefect(error: unknown): void {
    this.#log("error", "a network service of a sandbox has failed", {
      slot: this.slot,
      error: error instanceof Error ? error.stack : String(error),
    });
  }
}

const connectTimeoutMs = 30_000;
