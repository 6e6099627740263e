import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Arm } from "../resource-manager/arm-client.ts";
import { ensure, ensureSized, find } from "../resource-manager/create-host.ts";
import {
  type ArmResource,
  getOf,
  networkInterface,
  publicAddress,
  resourceGroup,
  securityGroup,
  type SingleHost,
  tagName,
  network,
  versions,
  virtualMachine,
} from "../resource-manager/single-host.ts";
import { image } from "./fleet-plan.ts";

export interface ImageBuild {
  readonly arm: Arm;
  readonly host: SingleHost;
  /** Sizes of the machine on which the image is built. */
  readonly sizes: readonly string[];
  /** Installs the program on the machine with this address, so that a copy of its disk is a host of a fleet. */
  readonly install: (address: string) => Promise<void>;
  readonly note: (text: string) => void;
}

/**
 * Builds the image of this version, unless it exists: a machine is made, prepared, generalized and captured, and its
 * parts are deleted. A second run continues after an interruption at any call. @returns the id of the image
 */
export async function buildImage(
  { arm, host, sizes, install, note }: ImageBuild,
  signal: AbortSignal,
): Promise<string> {
  const parts = builderParts(host);
  const captured = image(host, parts.machine("").path);
  const present = await find(arm, host, captured, signal);
  if (present?.properties?.provisioningState === "Succeeded") {
    note("image: present");
  } else {
    await ensure({ arm, host, resource: resourceGroup(host), note }, signal);
    for (const resource of parts.surroundings) await ensure({ arm, host, resource, note }, signal);
    const machine = { label: "machine of the image", of: parts.machine };
    await ensureSized({ arm, host, sizes, note, machine }, signal);
    await generalize({ arm, parts, install, note }, signal);
    await ensure({ arm, host, resource: captured, note }, signal);
  }
  for (const { label, path, apiVersion } of [parts.machine(""), ...parts.surroundings.toReversed()]) {
    if ((await find(arm, host, { label, path, apiVersion }, signal)) === undefined) continue;
    note(`${label}: deleting`);
    await arm.require({ method: "DELETE", path, apiVersion }, signal);
  }
  return captured.path;
}

interface BuilderParts {
  readonly surroundings: readonly ArmResource[];
  readonly machine: (size: string) => ArmResource;
  readonly address: ArmResource;
}

/** Everything of the builder has names and a network of its own, apart from those of the fleet in the same group. */
function builderParts(host: SingleHost): BuilderParts {
  const builder = { ...host, name: `${host.name}-image` };
  const moved = <Resource extends ArmResource>(resource: Resource): Resource => rename(resource, host, builder);
  const [nsg, vnet, address, nic] = [
    securityGroup(builder),
    network(builder),
    publicAddress(builder),
    networkInterface(builder),
  ].map(moved) as [ArmResource, ArmResource, ArmResource, ArmResource];
  const machine = (size: string): ArmResource => {
    const { body, ...rest } = virtualMachine(builder, size);
    const { dataDisks: _, ...storageProfile } = body.properties.storageProfile;
    return moved({ ...rest, body: { ...body, properties: { ...body.properties, storageProfile } } });
  };
  return { surroundings: [nsg, vnet, address, nic], machine, address };
}

/** The resource in the group of `host`, and with its tag. */
function rename<Resource extends ArmResource>(resource: Resource, host: SingleHost, builder: SingleHost): Resource {
  const group = (name: string): string => `/resourceGroups/${name}/`;
  const text = JSON.stringify(resource).replaceAll(group(builder.name), group(host.name));
  const { body, ...rest } = JSON.parse(text) as Resource;
  return {
    ...rest,
    label: `${resource.label} of the image`,
    body: { ...body, tags: { [tagName]: host.name } },
  } as Resource;
}

interface Generalizing {
  readonly arm: Arm;
  readonly parts: BuilderParts;
  readonly install: ImageBuild["install"];
  readonly note: (text: string) => void;
}

/** Azure never starts a generalized machine again, so each step is skipped after it. */
async function generalize({ arm, parts, install, note }: Generalizing, signal: AbortSignal): Promise<void> {
  const { path } = parts.machine("");
  const apiVersion = versions.compute;
  const view = (await arm.require({ method: "GET", path: `${path}/instanceView`, apiVersion }, signal)) as {
    readonly statuses?: readonly { readonly code: string }[];
  };
  const states = (view.statuses ?? []).map(({ code }) => code.toLowerCase());
  if (states.includes("osstate/generalized")) return note("machine of the image: generalized");
  // A machine is stopped after its installation alone.
  if (!states.includes("powerstate/deallocated")) {
    const found = (await arm.require(getOf(parts.address), signal)) as { properties?: { ipAddress?: string } };
    const address = found.properties?.ipAddress;
    if (address === undefined)
      throw new SandboxError("unavailable", "the machine of the image has no address yet. Run the command again");
    await install(address);
    note("machine of the image: stopping");
    await arm.require({ method: "POST", path: `${path}/deallocate`, apiVersion }, signal);
  }
  note("machine of the image: generalizing");
  await arm.require({ method: "POST", path: `${path}/generalize`, apiVersion }, signal);
}
