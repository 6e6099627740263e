import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Arm, ArmCall, ArmResult } from "../../resource-manager/arm-client.ts";
import { getOf, groupPath, versions } from "../../resource-manager/single-host.ts";

/** The scale set whose machines are the workers of a fleet. */
export interface ScaleSetTarget {
  readonly arm: Arm;
  readonly subscription: string;
  readonly name: string;
}

/** The part of a scale set that this program reads. */
export interface ScaleSet {
  readonly capacity: number;
  readonly sku: object;
  readonly tags: Readonly<Record<string, string>>;
}

export interface Machine {
  readonly instanceId: string;
  readonly provisioningState?: string | undefined;
  /** Unique among all machines of Azure. */
  readonly vmId?: string | undefined;
  /** The name of the host in the private network, in lower case. */
  readonly host: string;
  /** The id of the image that the machine was started from. */
  readonly image: string;
}

/** While the tag is there, an upgrade replaces the workers. Its value is their number before and after. */
export const upgradeTag = "opensandbox-upgrade";

/** @throws `unavailable` when the scale set is missing */
export async function readScaleSet(target: ScaleSetTarget, signal: AbortSignal): Promise<ScaleSet> {
  const found = await findScaleSet(target, signal);
  if (found !== undefined) return found;
  const message = `there is no scale set ${target.name}-workers yet: 'osb azure fleet create --name ${target.name}' continues the creation of the fleet`;
  throw new SandboxError("unavailable", message);
}

/** Undefined when the scale set is missing. @throws `unavailable` */
export async function findScaleSet(target: ScaleSetTarget, signal: AbortSignal): Promise<ScaleSet | undefined> {
  const set = pathOf(target);
  const result = await target.arm.send(getOf(set), signal);
  if (!result.ok) {
    if (result.status === 404) return undefined;
    throw new SandboxError("unavailable", `cannot look up ${set.path}: ${result.code}: ${result.message}`);
  }
  const { sku, tags } = result.value as {
    readonly sku?: { readonly capacity?: number };
    readonly tags?: Readonly<Record<string, string>>;
  };
  if (sku?.capacity === undefined) throw new SandboxError("unavailable", `${set.path} has no capacity`);
  return { capacity: sku.capacity, sku, tags: tags ?? {} };
}

/** The call that changes a part of a scale set; machines that exist stay as they are. */
export function changeCall(target: ScaleSetTarget, body: object): ArmCall {
  return { ...pathOf(target), method: "PATCH", body };
}

export async function changeScaleSet(target: ScaleSetTarget, body: object, signal: AbortSignal): Promise<ArmResult> {
  return await target.arm.send(changeCall(target, body), signal);
}

export async function listMachines(target: ScaleSetTarget, signal: AbortSignal): Promise<readonly Machine[]> {
  const set = pathOf(target);
  const listed = await target.arm.list(getOf({ ...set, path: `${set.path}/virtualMachines` }), signal);
  return (listed as ListedMachine[]).map(({ instanceId, properties }) => ({
    instanceId,
    provisioningState: properties?.provisioningState,
    vmId: properties?.vmId,
    host: properties?.osProfile?.computerName?.toLowerCase() ?? "",
    image: properties?.storageProfile?.imageReference?.id ?? "",
  }));
}

/** The call that deletes one machine with its disks, which makes the scale set smaller by one. */
export function deleteCall(target: ScaleSetTarget, instanceId: string): ArmCall {
  const set = pathOf(target);
  return { ...set, method: "POST", path: `${set.path}/delete`, body: { instanceIds: [instanceId] } };
}

export async function deleteMachine(target: ScaleSetTarget, instanceId: string, signal: AbortSignal): Promise<void> {
  await target.arm.require(deleteCall(target, instanceId), signal);
}

/** Whether the worker with that address runs on the machine. */
export function runsOn({ url }: { readonly url: string }, { host }: Machine): boolean {
  return new URL(url).hostname.toLowerCase() === host;
}

function pathOf(target: ScaleSetTarget): { readonly path: string; readonly apiVersion: string } {
  const path = `${groupPath(target)}/providers/Microsoft.Compute/virtualMachineScaleSets/${target.name}-workers`;
  return { path, apiVersion: versions.compute };
}

interface ListedMachine {
  readonly instanceId: string;
  readonly properties?: {
    readonly provisioningState?: string;
    readonly vmId?: string;
    readonly osProfile?: { readonly computerName?: string };
    readonly storageProfile?: { readonly imageReference?: { readonly id?: string } };
  };
}
