import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Arm } from "../resource-manager/arm-client.ts";
import { ensure, ensureSized, find, findAddress } from "../resource-manager/create-host.ts";
import {
  type ArmResource,
  getOf,
  publicAddress,
  putOf,
  resourceGroup,
  securityGroup,
  versions,
} from "../resource-manager/single-host.ts";
import { bootLine } from "./boot-line.ts";
import {
  assignments,
  type AzureFleet,
  blobContainer,
  database,
  databaseServer,
  deletedVault,
  type FleetFacts,
  fleetNetwork,
  gateway,
  gatewayAddress,
  identity,
  image,
  lifecycle,
  privateZone,
  records,
  scaleSet,
  scalingRight,
  secret,
  type SecretName,
  secretNames,
  serverInterface,
  serverMachine,
  serverSizes,
  storageAccount,
  vault,
  workersGroup,
  zone,
  zoneLink,
} from "./fleet-plan.ts";

export interface FleetCreation {
  readonly arm: Arm;
  readonly fleet: AzureFleet;
  /** Sizes of workers in the order in which they are tried. */
  readonly sizes: readonly string[];
  /** The certificate chain and key of the domain, as PEM. Absent: the server listens without TLS on itself alone. */
  readonly tls: { readonly certificate: string; readonly key: string } | undefined;
  readonly makeFleetToken: () => Promise<string>;
  readonly note: (text: string) => void;
  /** The wait between two looks at a database server that is being made. Absent: 5 s. */
  readonly pollMs?: number;
}

export interface CreatedFleet {
  readonly address: string;
  readonly hostname: string;
  readonly serverSize: string;
  readonly workerSize: string;
  /** The servers that resolve the domain, for its registrar. */
  readonly nameServers: readonly string[];
}

/**
 * Creates the missing resources of a fleet and leaves existing ones, so that a second run continues after an interruption at any
 * call. @throws `unavailable` without an image of this version, and as {@link ensure} and {@link ensureSized}
 */
export async function createFleet(creation: FleetCreation, signal: AbortSignal): Promise<CreatedFleet> {
  const { arm, fleet, sizes, tls, note } = creation;
  const make = async (resource: ArmResource) => await ensure({ arm, host: fleet, resource, note }, signal);
  await make(resourceGroup(fleet));
  await requireImage(arm, fleet, signal);
  const tenantId = await findTenant(arm, fleet, signal);
  for (const resource of [
    securityGroup({ ...fleet, userData: "" }),
    workersGroup(fleet),
    gatewayAddress(fleet),
    gateway(fleet),
    fleetNetwork(fleet),
    publicAddress(fleet),
  ]) {
    await make(resource);
  }
  const made = await make(identity(fleet));
  const facts = { tenantId, principalId: principalOf(made) };
  for (const resource of [storageAccount(fleet), blobContainer(fleet), lifecycle(fleet)]) await make(resource);
  await makeVault(creation, facts, signal);
  for (const resource of assignments(fleet, facts)) await make(resource);
  await makeSecrets(creation, signal);
  for (const resource of [privateZone(fleet), zoneLink(fleet)]) await make(resource);
  await makeDatabaseServer(creation, signal);
  await make(database(fleet));
  const nameServers = await makeZone(creation, signal);
  await make(serverInterface(fleet));
  const server = {
    label: "server",
    of: (size: string) => serverMachine(fleet, size, bootLine(fleet, { role: "server", hasTls: tls !== undefined })),
  };
  const serverSize = await ensureSized({ arm, host: fleet, sizes: serverSizes, note, machine: server }, signal);
  const workers = {
    label: "workers",
    of: (size: string) => scaleSet(fleet, size, bootLine(fleet, { role: "worker" })),
  };
  const workerSize = await ensureSized({ arm, host: fleet, sizes, note, machine: workers }, signal);
  await make(scalingRight(fleet, facts));
  return { ...(await findAddress(arm, fleet, signal)), serverSize, workerSize, nameServers };
}

async function requireImage(arm: Arm, fleet: AzureFleet, signal: AbortSignal): Promise<void> {
  const found = await find(arm, fleet, image(fleet, ""), signal);
  if (found?.properties?.provisioningState === "Succeeded") return;
  const message = `there is no ${image(fleet, "").path.split("/").at(-1)} yet: 'osb azure image --name ${fleet.name}' builds it, from which every host of the fleet starts`;
  throw new SandboxError("unavailable", message);
}

async function findTenant(arm: Arm, { subscription }: AzureFleet, signal: AbortSignal): Promise<string> {
  const call = { path: `/subscriptions/${subscription}`, apiVersion: versions.subscriptions };
  const { tenantId } = (await arm.require(getOf(call), signal)) as { tenantId?: string };
  if (tenantId !== undefined) return tenantId;
  throw new SandboxError("unavailable", `Azure does not name the tenant of the subscription ${subscription}`);
}

function principalOf({ properties }: { readonly properties?: { readonly principalId?: string } }): string {
  if (properties?.principalId !== undefined) return properties.principalId;
  throw new SandboxError("unavailable", "the managed identity has no object id yet. Run the command again");
}

/** Azure keeps a deleted vault with its name and its secrets for a week, and brings it back on request. */
async function makeVault({ arm, fleet, note }: FleetCreation, facts: FleetFacts, signal: AbortSignal): Promise<void> {
  const isPresent = (await find(arm, fleet, vault(fleet, facts, false), signal)) !== undefined;
  const deleted = isPresent ? undefined : await arm.send(getOf(deletedVault(fleet)), signal);
  const resource = vault(fleet, facts, deleted?.ok === true);
  await ensure({ arm, host: fleet, resource, note }, signal);
}

/** An existing secret stays: hosts and data depend on it. A new certificate replaces the stored one. */
async function makeSecrets(
  { arm, fleet, tls, makeFleetToken, note }: FleetCreation,
  signal: AbortSignal,
): Promise<void> {
  const random = async (): Promise<string> => await Promise.resolve(randomBytes(32).toString("hex"));
  const makers: readonly (readonly [SecretName, () => Promise<string>])[] = [
    [secretNames.fleetToken, makeFleetToken],
    [secretNames.masterKey, random],
    [secretNames.objectStoreKey, random],
  ];
  for (const [name, makeValue] of makers) {
    const present = await find(arm, fleet, secret(fleet, name, ""), signal);
    note(`secret ${name}: ${present === undefined ? "creating" : "present"}`);
    if (present === undefined) await arm.require(putOf(secret(fleet, name, await makeValue())), signal);
  }
  if (tls === undefined) return;
  note("secrets of the certificate: storing");
  await arm.require(putOf(secret(fleet, secretNames.tlsCertificate, tls.certificate)), signal);
  await arm.require(putOf(secret(fleet, secretNames.tlsKey, tls.key)), signal);
}

const databaseTimeoutMs = 30 * 60_000;

/**
 * The password goes to the vault before the server is made with it, and Azure gives neither back. A server that exists,
 * or is being made, therefore has the password in the vault, and no other run may change either.
 */
async function makeDatabaseServer(
  { arm, fleet, note, pollMs = 5000 }: FleetCreation,
  signal: AbortSignal,
): Promise<void> {
  const server = databaseServer(fleet, randomBytes(24).toString("base64url"));
  let present = await find(arm, fleet, server, signal);
  if (present === undefined) {
    note(`${server.label}: creating, which takes some minutes`);
    const { administratorLoginPassword: password } = server.body.properties;
    await arm.require(putOf(secret(fleet, secretNames.databasePassword, password)), signal);
    await arm.require(putOf(server), signal);
    present = await find(arm, fleet, server, signal);
  } else {
    note(`${server.label}: present`);
  }
  for (const deadline = performance.now() + databaseTimeoutMs; present?.properties?.state !== "Ready";) {
    if (performance.now() > deadline) {
      const message = `the database server is ${present?.properties?.state ?? "missing"}, and was not ready within ${databaseTimeoutMs / 60_000} minutes. Run the command again to continue`;
      throw new SandboxError("timed_out", message);
    }
    note(`${server.label}: ${present?.properties?.state ?? "missing"}, waiting until it is ready`);
    await sleep(pollMs, undefined, { signal });
    present = await find(arm, fleet, server, signal);
  }
}

/** Returns the name servers of the domain. */
async function makeZone({ arm, fleet, note }: FleetCreation, signal: AbortSignal): Promise<readonly string[]> {
  const { domain } = fleet;
  if (domain === undefined) return [];
  const resource = zone(fleet, domain);
  const made = await ensure({ arm, host: fleet, resource, note }, signal);
  for (const record of records(fleet, domain)) await ensure({ arm, host: fleet, resource: record, note }, signal);
  return (made.properties as { nameServers?: readonly string[] } | undefined)?.nameServers ?? [];
}
