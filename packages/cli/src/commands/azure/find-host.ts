import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Context } from "../../context.ts";
import { ArmClient } from "./resource-manager/arm-client.ts";
import { defaultName } from "./azure-options.ts";
import { findCredentials } from "./resource-manager/credentials.ts";
import { roleTag } from "./fleet/fleet-plan.ts";
import type { Remote } from "./install/remote.ts";
import { getOf, publicAddress, type SingleHost, tagName, virtualMachine } from "./resource-manager/single-host.ts";

export interface TargetInput {
  readonly name?: string | undefined;
  readonly subscription?: string | undefined;
}

export interface Target {
  readonly arm: ArmClient;
  /** Enough of a host to name its resources. */
  readonly host: SingleHost;
}

/** Signs in, and names the resources of the host. */
export async function openTarget(
  { name = defaultName, subscription }: TargetInput,
  { host, signal }: Pick<Context, "host" | "signal">,
): Promise<Target> {
  const credentials = await findCredentials(host.env, subscription, signal);
  return { arm: new ArmClient(credentials), host: namedHost(name, credentials.subscription) };
}

/** A host with valid paths only: its bodies must not be sent. */
export function namedHost(name: string, subscription: string): SingleHost {
  const unknown = { location: "", user: "", sshKey: "", sshFrom: "", userData: "", dataDiskGib: 0, osDiskGib: 0 };
  return { ...unknown, name, subscription };
}

export interface FoundHost extends Target {
  readonly remote: Remote;
  readonly hostname: string;
  readonly size: string;
  readonly location: string;
  readonly provisioningState: string;
  /** The host is the server of a fleet. */
  readonly isFleet: boolean;
  /** The name of its service. */
  readonly unit: string;
}

/** The host as Azure knows it. @throws `unavailable` when no host has that name */
export async function findHost(input: TargetInput, context: Pick<Context, "host" | "signal">): Promise<FoundHost> {
  const { arm, host } = await openTarget(input, context);
  const { signal } = context;
  const [machine, address] = await Promise.all(
    [virtualMachine(host, ""), publicAddress(host)].map((resource) => arm.send(getOf(resource), signal)),
  );
  for (const result of [machine, address]) {
    if (result?.ok === false && result.status !== 404) {
      throw new SandboxError("unavailable", `Azure refused to show the host: ${result.code}: ${result.message}`);
    }
  }
  if (machine?.ok !== true || address?.ok !== true) {
    const { program } = context.host;
    const message = `there is no host ${host.name} in this subscription; '${program} azure create --name ${host.name}' makes one, and continues where an interrupted one ended`;
    throw new SandboxError("unavailable", message);
  }
  const { location, tags, properties } = machine.value as {
    location: string;
    tags?: Record<string, string>;
    properties: {
      provisioningState: string;
      hardwareProfile: { vmSize: string };
      osProfile: { adminUsername: string };
    };
  };
  const { properties: of } = address.value as { properties: { ipAddress: string; dnsSettings?: { fqdn?: string } } };
  if (tags?.[tagName] !== host.name) {
    throw new SandboxError(
      "unavailable",
      `${host.name}-vm lacks the tag ${tagName}=${host.name}, so it is not this program's`,
    );
  }
  return {
    arm,
    host,
    location,
    isFleet: tags[roleTag] === "server",
    unit: tags[roleTag] === "server" ? "opensandbox-server" : "opensandbox",
    size: properties.hardwareProfile.vmSize,
    provisioningState: properties.provisioningState,
    hostname: of.dnsSettings?.fqdn ?? of.ipAddress,
    remote: { user: properties.osProfile.adminUsername, address: of.ipAddress, env: context.host.env },
  };
}
