import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Arm, ArmResult } from "./arm-client.ts";
import { chooseSizes } from "./choose-sizes.ts";
import {
  type ArmResource,
  getOf,
  putOf,
  publicAddress,
  type SingleHost,
  surroundings,
  tagName,
  virtualMachine,
} from "./single-host.ts";

export interface Creation {
  readonly arm: Arm;
  readonly host: SingleHost;
  /** Sizes in the order in which they are tried. */
  readonly sizes: readonly string[];
  readonly note: (text: string) => void;
}

export interface CreatedHost {
  readonly address: string;
  readonly hostname: string;
  readonly size: string;
}

/**
 * Creates the missing resources and leaves existing ones, so that a second run continues after an interruption at any
 * call. @throws `unavailable` when no size is available, and when a resource of that name lacks our tag
 */
export async function createHost({ arm, host, sizes, note }: Creation, signal: AbortSignal): Promise<CreatedHost> {
  for (const resource of surroundings(host)) await ensure({ arm, host, resource, note }, signal);
  const machine = { label: "virtual machine", of: (size: string) => virtualMachine(host, size) };
  const size = await ensureSized({ arm, host, sizes, note, machine }, signal);
  return { ...(await findAddress(arm, host, signal)), size };
}

/** The public address of a host or of a fleet's server. @throws `unavailable` before Azure has assigned it */
export async function findAddress(
  arm: Arm,
  host: Pick<SingleHost, "subscription" | "name" | "location">,
  signal: AbortSignal,
): Promise<{ readonly address: string; readonly hostname: string }> {
  const address = publicAddress(host);
  const { properties } = (await arm.require(getOf(address), signal)) as {
    properties: { ipAddress?: string; dnsSettings?: { fqdn?: string } };
  };
  const { ipAddress, dnsSettings } = properties;
  if (ipAddress === undefined)
    throw new SandboxError("unavailable", `${address.path} has no address yet. Run the command again`);
  return { address: ipAddress, hostname: dnsSettings?.fqdn ?? ipAddress };
}

export interface Present {
  readonly tags?: Readonly<Record<string, string>>;
  readonly sku?: { readonly name?: string };
  readonly properties?: {
    /** The state of a database server, which has no other. */
    readonly state?: string;
    readonly principalId?: string;
    readonly provisioningState?: string;
    readonly hardwareProfile?: { readonly vmSize?: string };
  };
}

interface Ensuring {
  readonly arm: Arm;
  readonly host: Pick<SingleHost, "name">;
  readonly resource: ArmResource;
  readonly note: (text: string) => void;
}

/** Creates the resource unless it exists as a whole, and returns it. */
export async function ensure({ arm, host, resource, note }: Ensuring, signal: AbortSignal): Promise<Present> {
  const present = await find(arm, host, resource, signal);
  if (present !== undefined && (resource.isPart || present.properties?.provisioningState === "Succeeded")) {
    note(`${resource.label}: present`);
    return present;
  }
  note(`${resource.label}: creating`);
  return (await arm.require(putOf(resource), signal)) as Present;
}

/** The existing resource, or undefined. @throws `unavailable` when it lacks our tag */
export async function find(
  arm: Arm,
  host: Pick<SingleHost, "name">,
  resource: Pick<ArmResource, "path" | "apiVersion" | "label" | "isPart">,
  signal: AbortSignal,
): Promise<Present | undefined> {
  const result = await arm.send(getOf(resource), signal);
  if (!result.ok) {
    if (result.status === 404) return undefined;
    throw new SandboxError("unavailable", `cannot look up the ${resource.label}: ${result.code}: ${result.message}`);
  }
  const present = result.value as Present;
  if (resource.isPart || present.tags?.[tagName] === host.name) return present;
  const message = `${resource.path} exists without the tag ${tagName}=${host.name}, so it is not this program's. Use another --name`;
  throw new SandboxError("unavailable", message);
}

/** Errors that another size may avoid. https://learn.microsoft.com/azure/virtual-machines/error-codes */
export const sizeProblems: ReadonlySet<string> = new Set([
  "SkuNotAvailable",
  "AllocationFailed",
  "OverconstrainedAllocationRequest",
  "QuotaExceeded",
  "OperationNotAllowed",
  "InvalidParameter.VmSize",
]);

interface Sizing {
  readonly arm: Arm;
  readonly host: Pick<SingleHost, "name" | "subscription" | "location">;
  readonly sizes: readonly string[];
  readonly note: (text: string) => void;
  /** A machine, or a set of equal machines. */
  readonly machine: { readonly label: string; readonly of: (size: string) => ArmResource };
}

/** Creates the machine in the first size that Azure has, and returns the size. */
export async function ensureSized(sizing: Sizing, signal: AbortSignal): Promise<string> {
  const { arm, host, sizes, note, machine } = sizing;
  const { label } = machine;
  const present = await find(arm, host, machine.of(""), signal);
  const presentSize = present?.properties?.hardwareProfile?.vmSize ?? present?.sku?.name;
  const state = present?.properties?.provisioningState;
  if (state === "Succeeded" && presentSize !== undefined) {
    note(`${label}: present`);
    return presentSize;
  }
  // A machine that Azure could not place keeps its size and its user data, which no PUT changes.
  if (state === "Failed") await remove(sizing, signal);
  const underWay = present !== undefined && state !== "Failed" ? presentSize : undefined;
  const { usable, unusable } =
    underWay === undefined ? await chooseSizes(arm, host, sizes, signal) : { usable: [underWay], unusable: [] };
  const problems = [...unusable];
  for (const size of usable) {
    note(`${label}: creating ${size}`);
    const result: ArmResult = await arm.send(putOf(machine.of(size)), signal);
    if (result.ok) return size;
    const problem = `${size}: ${result.code}: ${result.message}`;
    if (!sizeProblems.has(result.code)) throw new SandboxError("unavailable", `cannot create the ${label}: ${problem}`);
    note(`${label}: ${problem}`);
    problems.push(problem);
    if ((await find(arm, host, machine.of(""), signal)) !== undefined) await remove(sizing, signal);
  }
  throw new SandboxError(
    "unavailable",
    `no size can be created in ${host.location}. Ask for quota in the portal (Subscriptions, Usage + quotas), or use another --location or --size\n${problems.join("\n")}`,
  );
}

async function remove({ arm, note, machine }: Sizing, signal: AbortSignal): Promise<void> {
  note(`${machine.label}: removing the machine that could not be placed`);
  const { path, apiVersion } = machine.of("");
  await arm.require({ method: "DELETE", path, apiVersion }, signal);
}
