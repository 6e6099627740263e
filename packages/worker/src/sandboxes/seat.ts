import { createHash } from "node:crypto";
import { adoptSlot, claimSlot, type Slot } from "#host/slots.ts";
import type { NetworkAttachment } from "#machine/machine.ts";
import { joinHostNetwork, rejoinHostNetwork } from "#network/host-network.ts";
import type { Host } from "./host.ts";
import type { Owner } from "./machine-files.ts";

/**
 * The first user id of machines: slot n's process runs as this plus n. Far above what distributions give to people
 * and to containers of users (/etc/subuid starts at 100000 and rarely has more than a few dozen ranges).
 */
const firstMachineUser = 1_900_000_000;

/** The first group id of organizations, above all users of machines. */
const firstTenantGroup = 2_000_000_000;

/** What a machine's process has on the host beside its files: a slot, a user and a network. */
export interface Seat extends AsyncDisposable {
  readonly slot: number | undefined;
  /** Undefined where this process is not root and cannot choose. */
  readonly user: Owner | undefined;
  readonly network: NetworkAttachment;
}

export interface SeatRequest {
  /** The machine's directory, which exists: whoever finds the slot knows by it whether it is still needed. */
  readonly directory: string;
  readonly networkEnabled: boolean;
  /** Whose private files its process may read; undefined: nobody's. */
  readonly organizationId: string | undefined;
}

export async function takeSeat(request: SeatRequest, host: Host): Promise<Seat> {
  await using undo = new AsyncDisposableStack();
  const slot = host.root ? undo.use(await claimSlot(request.directory)) : undefined;
  const network = await attach(request.networkEnabled, slot, host, undo);
  return seat(slot, network, request.organizationId, undo);
}

/** The seat of a machine that another worker has started and that still runs. */
export async function adoptSeat(
  directory: string,
  slotNumber: number | undefined,
  network: NetworkAttachment["kind"],
  organizationId: string | undefined,
  host: Host,
): Promise<Seat> {
  await using undo = new AsyncDisposableStack();
  const slot = slotNumber === undefined ? undefined : undo.use((await adoptSlot(slotNumber, directory)).slot);
  const attachment: NetworkAttachment =
    network === "tap" && slot !== undefined && host.network.mode === "tap"
      ? undo.use(await rejoinHostNetwork(slot, host.network.resolver))
      : { kind: network === "user" ? "user" : "none" };
  return seat(slot, attachment, organizationId, undo);
}

function seat(
  slot: Slot | undefined,
  network: NetworkAttachment,
  organizationId: string | undefined,
  undo: AsyncDisposableStack,
): Seat {
  const owned = undo.move();
  return {
    slot: slot?.number,
    user: slot === undefined ? undefined : userOf(slot, organizationId),
    network,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function userOf({ number }: Slot, organizationId: string | undefined): Owner {
  const uid = firstMachineUser + number;
  return { uid, gid: tenantGroup(organizationId) ?? uid };
}

/** Whom the private files of an organization belong to: root, and readable for the processes of its machines. */
export function tenantOf(organizationId: string): Owner {
  return { uid: 0, gid: tenantGroup(organizationId) ?? 0 };
}

/** The group that may read what is private of an organization. */
function tenantGroup(organizationId: string | undefined): number | undefined {
  if (organizationId === undefined) return undefined;
  return firstTenantGroup + createHash("sha256").update(organizationId).digest().readUIntBE(0, 3);
}

async function attach(
  enabled: boolean,
  slot: Slot | undefined,
  { network }: Host,
  undo: AsyncDisposableStack,
): Promise<NetworkAttachment> {
  if (!enabled || network.mode === "none") return { kind: "none" };
  if (network.mode !== "tap" || slot === undefined) return { kind: "user" };
  return undo.use(await joinHostNetwork(slot, network.resolver));
}
