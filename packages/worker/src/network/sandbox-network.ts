import { closeSync, readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import type { Log } from "#host/log.ts";
import { inNetworkNamespace, openTap } from "#host/kernel/libc.ts";
import { setNeighbour } from "#host/kernel/neighbours.ts";
import { changeSets } from "#host/kernel/netfilter.ts";
import { openConnection, openTcpListener, openUdpSocket } from "#host/kernel/sockets.ts";
import type { NetworkPolicy } from "@opensandbox/wire/egress.ts";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { isInRanges, parseIpv4 } from "@opensandbox/wire/ipv4.ts";
import type { NetworkRefusal, SandboxSecrets } from "@opensandbox/wire/worker/worker.ts";
import { devices, inner, macBytes, slotNames } from "./address-plan.ts";
import { answerMetadata, type MetadataSource } from "./metadata-service.ts";
import { sets, table, webProxyPort } from "./namespace-rules.ts";
import { NetworkRecord } from "./network-record.ts";
import { PinnedNames } from "./names/pinned-names.ts";
import { closedPolicy, compilePolicy, isPublicIpv4, refusalOf } from "./policy.ts";
import { addressKey, type AppliedPolicy, policyChanges } from "./policy-sets.ts";
import { NetworkSecrets } from "./secrets/network-secrets.ts";
import type { GuestServices, NetworkSockets, ServedNetwork, ServedState } from "./services/guest-services.ts";
import type { WebTarget } from "./web/web-proxy.ts";

/** A prepared slot that a machine uses. */
interface PreparedSlot {
  readonly number: number;
  /** State that an earlier worker stored with the slot; empty for a new one. */
  readonly state: string;
  keep(state: string): Promise<void>;
}

/** What every network of a worker shares. */
export interface NetworkSurroundings {
  readonly services: GuestServices;
  readonly log: Log;
  /** Authorities that hosts of secrets may have, besides the well-known ones. PEM; empty: none. */
  readonly secretAuthorities: string;
}

/** State that is stored for the next worker. */
interface KeptState {
  readonly policy: NetworkPolicy;
  readonly epoch: number;
  /** When the first policy was set, in milliseconds since 1970. */
  readonly since: number;
  readonly usesSecrets?: boolean;
}

/**
 * The network of one machine. Nothing leaves it until its guest is admitted and a policy is set. Disposing it ends its
 * services and returns it for removal; the machine's process must have ended.
 */
export class SandboxNetwork implements AsyncDisposable {
  readonly slot: number;
  /** The form that hypervisors take. */
  readonly attachment: {
    readonly kind: "tap";
    readonly namespace: string;
    readonly device: string;
    openTap(): number;
  };
  readonly #where: { readonly table: string; readonly namespace: string };
  readonly #prepared: PreparedSlot;
  readonly #giveBack: () => Promise<void>;
  readonly #log: Log;
  readonly #secretAuthorities: string;
  readonly #pinned: PinnedNames;
  readonly #record: NetworkRecord;
  readonly #services: GuestServices;
  /** Undefined until the first policy is set. */
  #served: ServedNetwork | undefined;
  #applied: AppliedPolicy = { policy: compilePolicy(closedPolicy), epoch: 0, usesSecrets: false };
  #secrets = new NetworkSecrets(undefined, "");
  #secretsVersion = 0;
  #since = 0;
  #webIsOpen = false;
  #defects = 0;
  #defectLoggedAt = Number.NEGATIVE_INFINITY;
  #metadata: MetadataSource | undefined;

  constructor(
    prepared: PreparedSlot,
    { services, log, secretAuthorities }: NetworkSurroundings,
    giveBack: () => Promise<void>,
  ) {
    const { namespaceFile: namespace } = slotNames(prepared.number);
    this.slot = prepared.number;
    this.attachment = { kind: "tap", namespace, device: devices.tap, openTap: () => openTap(devices.tap) };
    this.#prepared = prepared;
    this.#log = log;
    this.#secretAuthorities = secretAuthorities;
    this.#giveBack = giveBack;
    this.#where = { table, namespace };
    this.#pinned = new PinnedNames(this.#where);
    this.#record = new NetworkRecord(this.#where);
    if (prepared.state === "") this.#refuseHost();
    else this.#takeOver(JSON.parse(prepared.state) as KeptState);
    this.#services = services;
    services.start();
    if (this.#since > 0) this.#serve(openSockets(namespace, this.#applied));
  }

  /** The time of the first policy, which makes the machine a sandbox's, in milliseconds since 1970; 0 before that. */
  get since(): number {
    return this.#since;
  }

  get policy(): NetworkPolicy {
    return this.#applied.policy.policy;
  }

  /**
   * Holds the sandbox to `policy` from now on. No packet meets a half-set policy, and connections that it does not allow
   * are cut. @throws `invalid_argument` for invalid rules; then nothing has changed
   */
  async setPolicy(policy: NetworkPolicy): Promise<void> {
    const usesSecrets = this.#secrets.areUsed;
    const applied = { policy: compilePolicy(policy), epoch: this.#applied.epoch + 1, usesSecrets };
    const { namespace } = this.#where;
    // The sockets listen before the kernel redirects anything to them.
    const sockets = this.#served === undefined ? openSockets(namespace, applied) : undefined;
    try {
      if (sockets === undefined && needsProxy(applied)) this.#addWeb();
      const before = this.#applied;
      const pins = this.#pinned.retain((name) => applied.policy.namesDecide && applied.policy.allowsName(name));
      changeSets(this.#where, [...policyChanges(before, applied), ...pins]);
    } catch (error) {
      for (const descriptor of Object.values(sockets ?? {})) closeSync(descriptor);
      throw error;
    }
    const hasOtherHeaders = JSON.stringify(this.#applied.policy.headers) !== JSON.stringify(applied.policy.headers);
    // Connections with the earlier headers are cut.
    if (hasOtherHeaders) this.#secretsVersion += 1;
    this.#applied = applied;
    if (this.#since === 0) this.#since = Date.now();
    const kept: KeptState = { policy, epoch: applied.epoch, since: this.#since, usesSecrets };
    // The first policy reaches the services with the sockets, so that no guest is served under another one.
    if (sockets !== undefined) this.#serve(sockets);
    await Promise.all([
      this.#prepared.keep(JSON.stringify(kept)),
      sockets === undefined ? this.#served?.hold(this.#state) : undefined,
    ]);
  }

  /**
   * Puts these secrets into requests from now on. Whether there are any takes effect with the first policy, and does not
   * change afterwards. Absent: the sandbox uses none.
   */
  setSecrets(secrets: SandboxSecrets | undefined): void {
    this.#secrets = new NetworkSecrets(secrets, this.#secretAuthorities);
    this.#secretsVersion += 1;
    // A stalled process gets them with its successor; the worker checks every host itself.
    void this.#served?.hold(this.#state);
  }

  /** Accepts frames from this MAC address, and sends the guest's packets to it. Idempotent. */
  admit(mac: string): void {
    const bytes = macBytes(mac);
    changeSets({ ...this.#where, family: "netdev" }, [{ set: sets.macs, add: [{ key: bytes }] }]);
    // A fixed entry, so that the guest's ARP is not consulted.
    setNeighbour(this.#where.namespace, { device: devices.tap, address: addressKey(inner.guest), mac: bytes });
  }

  /** Sets the facts that the metadata service gives the guest. */
  identify(source: MetadataSource | undefined): void {
    this.#metadata = source;
  }

  /** Bytes that the guest has sent and received, and bytes that have left the namespace: refused packets have not. */
  traffic(): { readonly sentBytes: number; readonly receivedBytes: number; readonly leavingBytes: number } {
    const text = inNetworkNamespace(this.#where.namespace, () => readFileSync("/proc/thread-self/net/dev", "utf8"));
    const countersOf = (device: string): { readonly receivedBytes: number; readonly sentBytes: number } => {
      const line = text.split("\n").find((each) => each.trim().startsWith(`${device}:`)) ?? "";
      const numbers = line.split(":").at(-1)?.trim().split(/\s+/).map(Number) ?? [];
      return { receivedBytes: numbers[0] ?? 0, sentBytes: numbers[8] ?? 0 };
    };
    // The device counts from the host's side: it receives what the guest sends.
    const tap = countersOf(devices.tap);
    const { sentBytes: leavingBytes } = countersOf(devices.uplink);
    return { sentBytes: tap.receivedBytes, receivedBytes: tap.sentBytes, leavingBytes };
  }

  /** The refusals of the last hour, the newest first. */
  refusals(): readonly NetworkRefusal[] {
    return this.#record.list();
  }

  /** Ends the services of the network, so that the process that adopts the machine can listen on its addresses. */
  async release(): Promise<void> {
    await this.#served?.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#served?.[Symbol.dispose]();
    await this.#giveBack();
  }

  /** Without this rule the host's public addresses would count as addresses on the internet. */
  #refuseHost(): void {
    const addresses = Object.values(networkInterfaces())
      .flatMap((list) => list ?? [])
      .filter(({ family, address }) => family === "IPv4" && isPublicIpv4(parseIpv4(address) ?? 0))
      .map(({ address }) => address);
    const unique = [...new Set(addresses)];
    if (unique.length === 0) return;
    changeSets(this.#where, [{ set: sets.host, add: unique.map((address) => ({ key: addressKey(address) })) }]);
  }

  /** The kernel still holds the sandbox to the earlier worker's policy. */
  #takeOver({ policy, epoch, since, usesSecrets = false }: KeptState): void {
    this.#since = since;
    this.#applied = { policy: compilePolicy(policy), epoch, usesSecrets };
    this.#pinned.inherit();
  }

  #serve(sockets: NetworkSockets): void {
    this.#webIsOpen = sockets.web !== undefined;
    this.#served = this.#services.serve(sockets, this.#state, {
      intercept: (name) => this.#secrets.intercept(name, this.#applied.policy.headers),
      connect: (target) => this.#connect(target),
      pin: (name, addresses, ttlSeconds) => this.#pin(name, addresses, ttlSeconds),
      metadata: (endpoint, body) => answerMetadata(this.#metadata, endpoint, body),
      refused: (refusal) => this.#record.add(refusal),
      defect: (text) => this.#reportDefect(text),
    });
  }

  get #state(): ServedState {
    const { enabled, egress } = this.policy;
    const { headers, ...lists } = egress ?? {};
    const hosts = this.#applied.policy.headers.map(({ host }) => host);
    return {
      // The services ask for the headers of one host at a time.
      policy: headers === undefined ? this.policy : { enabled, egress: lists },
      secretHosts: [...new Set([...this.#secrets.hosts, ...hosts])],
      secretsVersion: this.#secretsVersion,
    };
  }

  #addWeb(): void {
    if (this.#webIsOpen) return;
    this.#served?.add("web", openWebListener(this.#where.namespace));
    this.#webIsOpen = true;
  }

  /** The services have read the name; this check decides whether the address may be reached. */
  #connect({ name, address, port }: WebTarget): { readonly descriptor: number } | { readonly refusal: string } {
    const { policy } = this.#applied;
    const number = parseIpv4(address);
    if (number === undefined || !isPublicIpv4(number) || isInRanges(number, policy.deniedRanges)) {
      return { refusal: "the network policy does not allow this address" };
    }
    if (port !== 80 && port !== 443) return { refusal: "only ports 80 and 443 are reached through the proxy" };
    const claimed = name === undefined ? { reason: "the connection does not state its host name" } : { name };
    const refusal = refusalOf(policy, claimed, address);
    if (refusal !== undefined) return { refusal };
    const isAllowed = policy.open || isInRanges(number, policy.allowedRanges);
    if (!isAllowed && !this.#pinned.has(name ?? "", number)) return { refusal: "the address is not one of this name" };
    return { descriptor: openConnection("tcp", this.#where.namespace, { address, port }) };
  }

  #pin(name: string, addresses: readonly number[], ttlSeconds: number): void {
    const { policy } = this.#applied;
    if (!policy.namesDecide || policy.open || !policy.allowsName(name) || !addresses.every(isPublicIpv4)) {
      throw new SandboxError("permission_denied", "the network policy does not allow this name");
    }
    this.#pinned.pin(name, addresses, ttlSeconds);
  }

  /** At most one line a second: the text comes from a process that guests talk to. */
  #reportDefect(text: string): void {
    this.#defects += 1;
    const now = performance.now();
    if (now - this.#defectLoggedAt < 1000) return;
    this.#defectLoggedAt = now;
    const count = this.#defects;
    this.#log("error", "a network service of a sandbox has failed", { slot: this.slot, count, error: text });
  }
}

/**
 * The sockets of the services, in the namespace, so that only its guest reaches them. What the guest sends waits in the
 * kernel until they are served.
 */
function openSockets(namespace: string, applied: AppliedPolicy): NetworkSockets {
  const names = { address: inner.nameServer, port: 53 };
  const opened: number[] = [];
  const kept = (descriptor: number): number => {
    opened.push(descriptor);
    return descriptor;
  };
  try {
    return {
      datagrams: kept(openUdpSocket(namespace, names)),
      streams: kept(openTcpListener(namespace, names)),
      metadata: kept(openTcpListener(namespace, { address: inner.metadata, port: 80 })),
      ...(needsProxy(applied) ? { web: kept(openWebListener(namespace)) } : {}),
    };
  } catch (error) {
    for (const descriptor of opened) closeSync(descriptor);
    throw error;
  }
}

function needsProxy({ policy, usesSecrets }: AppliedPolicy): boolean {
  return policy.namesDecide || usesSecrets;
}

function openWebListener(namespace: string): number {
  return openTcpListener(namespace, { address: "0.0.0.0", port: webProxyPort }, { transparent: true });
}
