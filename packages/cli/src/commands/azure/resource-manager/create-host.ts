import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ArmClient, ArmResult } from "./arm-client.ts";
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
  readonly arm: ArmClient;
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
  const size = await ensureMachine({ arm, host, sizes, note }, signal);
  const address = publicAddress(host);
  const { properties } = (await arm.require(getOf(address), signal)) as {
    properties: { ipAddress?: string; dnsSettings?: { fqdn?: string } };
  };
  const { ipAddress, dnsSettings } = properties;
  if (ipAddress === undefined)
    throw new SandboxError("unavailable", `${address.path} has no address yet. Run the command again`);
  return { address: ipAddress, hostname: dnsSettings?.fqdn ?? ipAddress, size };
}

interface Present {
  readonly tags?: Readonly<Record<string, string>>;
  readonly properties?: {
    readonly provisioningState?: string;
    readonly hardwareProfile?: { readonly vmSize?: string };
  };
}

interface Ensuring {
  readonly arm: ArmClient;
  readonly host: SingleHost;
  readonly resource: ArmResource;
  readonly note: (text: string) => void;
}

async function ensure({ arm, host, resource, note }: Ensuring, signal: AbortSignal): Promise<void> {
  const present = await find(arm, host, resource, signal);
  if (present?.properties?.provisioningState === "Succeeded") return note(`${resource.label}: present`);
  note(`${resource.label}: creating`);
  await arm.require(putOf(resource), signal);
}

/** The existing resource, or undefined. @throws `unavailable` when it lacks our tag */
async function find(
  arm: ArmClient,
  host: SingleHost,
  resource: Pick<ArmResource, "path" | "apiVersion" | "label">,
  signal: AbortSignal,
): Promise<Present | undefined> {
  const result = await arm.send(getOf(resource), signal);
  if (!result.ok) {
    if (result.status === 404) return undefined;
    throw new SandboxError("unavailable", `cannot look up the ${resource.label}: ${result.code}: ${result.message}`);
  }
  const present = result.value as Present;
  if (present.tags?.[tagName] === host.name) return present;
  const message = `${resource.path} exists without the tag ${tagName}=${host.name}, so it is not this program's. Use another --name`;
  throw new SandboxError("unavailable", message);
}

/** Errors that another size may avoid. https://learn.microsoft.com/azure/virtual-machines/error-codes */
const sizeProblems = new Set([
  "SkuNotAvailable",
  "AllocationFailed",
  "OverconstrainedAllocationRequest",
  "QuotaExceeded",
  "OperationNotAllowed",
  "InvalidParameter.VmSize",
]);

/** Creates the machine in the first size that Azure has, and returns the size. */
async function ensureMachine(
  { arm, host, sizes, note }: Omit<Creation, "sizes"> & { readonly sizes: readonly string[] },
  signal: AbortSignal,
): Promise<string> {
  const present = await find(arm, host, virtualMachine(host, ""), signal);
  const presentSize = present?.properties?.hardwareProfile?.vmSize;
  const state = present?.properties?.provisioningState;
  if (state === "Succeeded" && presentSize !== undefined) {
    note("virtual machine: present");
    return presentSize;
  }
  // A machine that Azure could not place keeps its size and its user data, which no PUT changes.
  if (state === "Failed") await remove(arm, host, note, signal);
  const underWay = present !== undefined && state !== "Failed" ? presentSize : undefined;
  const { usable, unusable } =
    underWay === undefined ? await chooseSizes(arm, host, sizes, signal) : { usable: [underWay], unusable: [] };
  const problems = [...unusable];
  for (const size of usable) {
    note(`virtual machine: creating ${size}`);
    const result: ArmResult = await arm.send(putOf(virtualMachine(host, size)), signal);
    if (result.ok) return size;
    const problem = `${size}: ${result.code}: ${result.message}`;
    if (!sizeProblems.has(result.code))
      throw new SandboxError("unavailable", `cannot create the virtual machine: ${problem}`);
    note(`virtual machine: ${problem}`);
    problems.push(problem);
    if ((await find(arm, host, virtualMachine(host, ""), signal)) !== undefined) await remove(arm, host, note, signal);
  }
  throw new SandboxError(
    "unavailable",
    `no size can be created in ${host.location}. Ask for quota in the portal (Subscriptions, Usage + quotas), or use another --location or --size\n${problems.join("\n")}`,
  );
}

async function remove(
  arm: ArmClient,
  host: SingleHost,
  note: (text: string) => void,
  signal: AbortSignal,
): Promise<void> {
  note("virtual machine: removing the one that could not be placed");
  const { path, apiVersion } = virtualMachine(host, "");
  await arm.require({ method: "DELETE", path, apiVersion }, signal);
}
