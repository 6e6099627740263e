import { createHash } from "node:crypto";
import { chown } from "node:fs/promises";
import type { Cgroup, CgroupLimits } from "#host/cgroups/cgroups.ts";
import type { StartSandbox } from "@opensandbox/wire/worker/worker.ts";
import { adoptSlot, claimSlot, type Slot } from "#host/slots.ts";
import type { NetworkAttachment } from "#hypervisor/hypervisor.ts";
import type { ProcessUser } from "#hypervisor/vm-process.ts";
import type { SandboxNetwork } from "#network/sandbox-network.ts";
import type { Host } from "./host.ts";
import type { Owner } from "./machine-files.ts";

/**
 * User id of the machine in slot 0; slot n adds n. It lies far above the ids that distributions give to people and to
 * containers of users (/etc/subuid starts at 100000 and rarely has more than a few dozen ranges).
 */
const firstMachineUser = 1_900_000_000;

/** The vsock address of a machine: the number of its user, far above those that other programs give to machines. */
export function cidOf(slot: number): number {
  return firstMachineUser + slot;
}

/** The first group id of organizations, above all users of machines. */
const firstTenantGroup = 2_000_000_000;

/** The resources of a machine's process on the host, in addition to its files: a slot, a user, a network and a cgroup. */
export interface HostResources extends AsyncDisposable {
  readonly slot: number | undefined;
  /** The user that the process runs as; undefined where this process is not root and cannot choose. */
  readonly user: ProcessUser | undefined;
  readonly network: NetworkAttachment;
  /** The network that enforces the sandbox's policy; undefined where policies are not enforced. */
  readonly sandboxNetwork: SandboxNetwork | undefined;
  /** Limits the process; undefined where this host has no cgroups for machines. */
  readonly cgroup: Cgroup | undefined;
}

export interface HostResourcesRequest {
  readonly machineId: string;
  readonly limits: CgroupLimits;
  /** The machine's directory, which exists. While it does, no sweep takes the slot away. */
  readonly directory: string;
  readonly networkEnabled: boolean;
  /** The group of the organization whose private files the process may read; undefined: no private files. */
  readonly tenantGroup: number | undefined;
}

type ResourceOwner = Pick<HostResourcesRequest, "directory" | "tenantGroup">;

/** @throws `no_capacity` when all slots are taken */
export async function acquireHostResources(request: HostResourcesRequest, host: Host): Promise<HostResources> {
  const { directory, networkEnabled, machineId, limits } = request;
  await using undo = new AsyncDisposableStack();
  const cgroup = await host.cgroups?.create(machineId, limits);
  if (cgroup !== undefined) undo.use(cgroup);
  if (host.network.mode === "tap") {
    // A sandbox without a network gets one too: its policy keeps it off, and the policy can change.
    return withNetwork(undo.use(await host.network.pool.claim(directory)), cgroup, request, undo);
  }
  const slot = host.root ? undo.use(await claimSlot(directory)) : undefined;
  const kind = networkEnabled ? host.network.mode : "none";
  return withoutNetwork({ kind }, { slot, cgroup }, request, undo);
}

/** Takes over the resources of a machine that another worker started and that still runs, except for its cgroup. */
export async function adoptHostResources(
  directory: string,
  slotNumber: number | undefined,
  network: NetworkAttachment["kind"],
  tenantGroup: number | undefined,
  host: Host,
): Promise<HostResources> {
  const owner = { directory, tenantGroup };
  await using undo = new AsyncDisposableStack();
  if (network === "tap" && slotNumber !== undefined && host.network.mode === "tap") {
    return withNetwork(undo.use(await host.network.pool.adopt(directory, slotNumber)), undefined, owner, undo);
  }
  const slot = slotNumber === undefined ? undefined : undo.use((await adoptSlot(slotNumber, directory)).slot);
  return withoutNetwork({ kind: network === "user" ? "user" : "none" }, { slot, cgroup: undefined }, owner, undo);
}

/** The process of a machine that another worker started. */
export interface AdoptedProcess {
  readonly machineId: string;
  readonly pid: number;
  readonly limits: CgroupLimits;
}

/** Adds the process's cgroup to the machine's resources. After a failure the sweep of dead workers' cgroups removes it. */
export async function adoptCgroup(
  resources: HostResources,
  { machineId, pid, limits }: AdoptedProcess,
  host: Host,
): Promise<HostResources> {
  const cgroup = await host.cgroups?.adopt(machineId, pid, limits);
  if (cgroup === undefined) return resources;
  return {
    ...resources,
    cgroup,
    async [Symbol.asyncDispose]() {
      await resources[Symbol.asyncDispose]();
      await cgroup[Symbol.asyncDispose]();
    },
  };
}

function withNetwork(
  sandboxNetwork: SandboxNetwork,
  cgroup: Cgroup | undefined,
  { directory, tenantGroup }: ResourceOwner,
  undo: AsyncDisposableStack,
): HostResources {
  undo.defer(() => takeFromUser(directory));
  const { slot, attachment } = sandboxNetwork;
  const owned = undo.move();
  return {
    ...{ slot, user: userOf(slot, tenantGroup), network: attachment, sandboxNetwork, cgroup },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function withoutNetwork(
  network: NetworkAttachment,
  { slot, cgroup }: { readonly slot: Slot | undefined; readonly cgroup: Cgroup | undefined },
  { directory, tenantGroup }: ResourceOwner,
  undo: AsyncDisposableStack,
): HostResources {
  if (slot !== undefined) undo.defer(() => takeFromUser(directory));
  const owned = undo.move();
  return {
    slot: slot?.number,
    user: slot === undefined ? undefined : userOf(slot.number, tenantGroup),
    ...{ network, sandboxNetwork: undefined, cgroup },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/**
 * Makes root the owner of the directory, which only its owner can enter: another machine may get the slot, and with it the
 * user that the directory's process had.
 */
export async function takeFromUser(directory: string): Promise<void> {
  try {
    await chown(directory, 0, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

/** The group with the user's own number has no other member: see `giveDirectory`. */
function userOf(slot: number, tenantGroup: number | undefined): ProcessUser {
  const uid = firstMachineUser + slot;
  return { uid, gid: tenantGroup ?? uid, groups: [uid] };
}

/** The owner of an organization's private files: root, with a group that the processes of its machines are in. */
export function tenantOf(tenantGroup: number): Owner {
  return { uid: 0, gid: tenantGroup };
}

/** The group that may read the private files of a sandbox's organization. */
export function tenantGroupOf({ organizationId, organizationNumber }: OwnerOfSandbox): number {
  // Earlier versions used 24 bits of a hash. The control plane gives organizations of that time the same number.
  const hash = (): number => createHash("sha256").update(organizationId).digest().readUIntBE(0, 3);
  return firstTenantGroup + (organizationNumber ?? hash());
}

type OwnerOfSandbox = Pick<StartSandbox, "organizationId" | "organizationNumber">;
