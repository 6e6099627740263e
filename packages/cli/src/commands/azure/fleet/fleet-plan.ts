import { createHash } from "node:crypto";
import { version } from "@opensandbox/wire/version.ts";
import {
  type ArmResource,
  dnsLabel,
  groupPath,
  inGroup,
  networkInterface,
  publicAddress,
  securityGroup,
  type SingleHost,
  tagName,
  versions,
  virtualMachine,
} from "../resource-manager/single-host.ts";

/** A fleet on Azure: one server with a database, and a scale set of workers without public addresses. */
export interface AzureFleet extends Omit<SingleHost, "userData" | "dataDiskGib"> {
  /** Workers at the start, and the bounds of the autoscaling. */
  readonly workers: { readonly min: number; readonly max: number };
  /** The data disk of each worker. */
  readonly dataDiskGib: number;
  /** The domain of the server and, as a wildcard, of the ports of sandboxes. */
  readonly domain: string | undefined;
}

/** Facts that Azure alone knows. */
export interface FleetFacts {
  readonly tenantId: string;
  /** The object id of the fleet's managed identity. */
  readonly principalId: string;
}

type Named = Pick<AzureFleet, "subscription" | "name" | "location">;

/** The server's address in the private network, which its workers and its own certificate know. */
export const serverAddress = "10.100.1.10";

/** The names of secrets in the vault. */
export const secretNames = {
  fleetToken: "fleet-token",
  masterKey: "master-key",
  objectStoreKey: "object-store-key",
  databasePassword: "database-password",
  tlsCertificate: "tls-certificate",
  tlsKey: "tls-key",
} as const;
export type SecretName = (typeof secretNames)[keyof typeof secretNames];

export const databaseUser = "opensandbox";
export const container = "snapshots";

/** Roles that Azure defines. https://learn.microsoft.com/azure/role-based-access-control/built-in-roles */
const roles = {
  vaultReader: "4633458b-17de-408a-b874-0445c86b69e6",
  blobContributor: "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
  machineContributor: "9980e02c-c2be-4d73-94e8-173b1dc7cf3c",
} as const;

/** Sizes of the server, in the order in which they are tried. */
export const serverSizes: readonly string[] = ["as_v6", "s_v6", "as_v5", "s_v5"].map(
  (family) => `Standard_D4${family}`,
);

/** Names that are unique in all of Azure: letters and digits alone, which every service accepts. */
export const vaultName = (fleet: Named): string => globalName(fleet, 24);
export const accountName = (fleet: Named): string => globalName(fleet, 24);
export const databaseHost = (fleet: Named): string => `${globalName(fleet, 40)}.postgres.database.azure.com`;

export function workersGroup(fleet: Named) {
  // Its default rules let the network in, and nothing else.
  return inGroup(
    fleet,
    "security group of workers",
    "Microsoft.Network/networkSecurityGroups",
    "workers-nsg",
    versions.network,
    {
      properties: { securityRules: [] },
    },
  );
}

export function gatewayAddress(fleet: Named) {
  return inGroup(
    fleet,
    "public address of workers",
    "Microsoft.Network/publicIPAddresses",
    "nat-ip",
    versions.network,
    {
      sku: { name: "Standard" },
      properties: { publicIPAllocationMethod: "Static", publicIPAddressVersion: "IPv4" },
    },
  );
}

/** The way out of the workers' subnet. Nothing comes in by it. */
export function gateway(fleet: Named) {
  return inGroup(fleet, "gateway of workers", "Microsoft.Network/natGateways", "nat", versions.network, {
    sku: { name: "Standard" },
    properties: { idleTimeoutInMinutes: 10, publicIpAddresses: [{ id: gatewayAddress(fleet).path }] },
  });
}

export function fleetNetwork(fleet: AzureFleet) {
  const services = ["Microsoft.Storage", "Microsoft.KeyVault"].map((service) => ({ service }));
  const subnet = (name: string, addressPrefix: string, further: object) => ({
    name,
    properties: { addressPrefix, ...further },
  });
  return inGroup(fleet, "network", "Microsoft.Network/virtualNetworks", "vnet", versions.network, {
    properties: {
      addressSpace: { addressPrefixes: ["10.100.0.0/16"] },
      subnets: [
        subnet("hosts", "10.100.1.0/24", {
          networkSecurityGroup: { id: securityGroup({ ...fleet, userData: "" }).path },
          serviceEndpoints: services,
        }),
        subnet("workers", "10.100.16.0/20", {
          networkSecurityGroup: { id: workersGroup(fleet).path },
          natGateway: { id: gateway(fleet).path },
          serviceEndpoints: services,
          defaultOutboundAccess: false,
        }),
        subnet("database", "10.100.2.0/24", {
          delegations: [{ name: "postgres", properties: { serviceName: "Microsoft.DBforPostgreSQL/flexibleServers" } }],
        }),
      ],
    },
  });
}

const subnetOf = (fleet: Named, name: string): string =>
  `${inGroup(fleet, "", "Microsoft.Network/virtualNetworks", "vnet", "", {}).path}/subnets/${name}`;

/** The identity of every host of the fleet, in place of keys. */
export function identity(fleet: Named) {
  return inGroup(
    fleet,
    "managed identity",
    "Microsoft.ManagedIdentity/userAssignedIdentities",
    "identity",
    versions.identity,
    {},
  );
}

export function storageAccount(fleet: Named) {
  return global(fleet, "storage account", "Microsoft.Storage/storageAccounts", accountName(fleet), versions.storage, {
    sku: { name: "Standard_ZRS" },
    kind: "StorageV2",
    properties: {
      accessTier: "Hot",
      allowBlobPublicAccess: false,
      // Hosts sign in with their identity.
      allowSharedKeyAccess: false,
      minimumTlsVersion: "TLS1_2",
      supportsHttpsTrafficOnly: true,
      networkAcls: {
        defaultAction: "Deny",
        bypass: "AzureServices",
        virtualNetworkRules: ["hosts", "workers"].map((name) => ({ id: subnetOf(fleet, name), action: "Allow" })),
      },
    },
  });
}

export function blobContainer(fleet: Named): ArmResource {
  return part(storageAccount(fleet), "container of snapshots", `blobServices/default/containers/${container}`, {
    properties: { publicAccess: "None" },
  });
}

/** Snapshots that are rarely read become cheaper to keep. The fleet itself removes those that nothing needs. */
export function lifecycle(fleet: Named): ArmResource {
  const baseBlob = { tierToCool: { daysAfterModificationGreaterThan: 30 } };
  return part(storageAccount(fleet), "lifecycle of snapshots", "managementPolicies/default", {
    properties: {
      policy: {
        rules: [
          {
            name: "cool",
            enabled: true,
            type: "Lifecycle",
            definition: {
              filters: { blobTypes: ["blockBlob"], prefixMatch: [`${container}/`] },
              actions: { baseBlob },
            },
          },
        ],
      },
    },
  });
}

export function vault(fleet: Named, { tenantId }: Pick<FleetFacts, "tenantId">, isDeleted: boolean) {
  return global(fleet, "key vault", "Microsoft.KeyVault/vaults", vaultName(fleet), versions.vault, {
    properties: {
      tenantId,
      sku: { family: "A", name: "standard" },
      accessPolicies: [],
      enableRbacAuthorization: true,
      enableSoftDelete: true,
      softDeleteRetentionInDays: 7,
      // Azure keeps a deleted vault and its name for a week.
      ...(isDeleted ? { createMode: "recover" } : {}),
    },
  });
}

/** The vault after its deletion. */
export function deletedVault(fleet: Named): Pick<ArmResource, "path" | "apiVersion"> {
  const { subscription, location } = fleet;
  const path = `/subscriptions/${subscription}/providers/Microsoft.KeyVault/locations/${location}/deletedVaults/${vaultName(fleet)}`;
  return { path, apiVersion: versions.vault };
}

export function secret(fleet: Named, name: SecretName, value: string): ArmResource {
  return part(vault(fleet, { tenantId: "" }, false), `secret ${name}`, `secrets/${name}`, { properties: { value } });
}

/** The database has an address in the private network alone, whose name this zone resolves. */
export function privateZone(fleet: Named) {
  const name = `${fleet.name}.private.postgres.database.azure.com`;
  return {
    ...global(fleet, "private zone", "Microsoft.Network/privateDnsZones", name, versions.privateDns, {}),
    body: { location: "global", tags: tagsOf(fleet) },
  };
}

export function zoneLink(fleet: Named): ArmResource {
  const { path, apiVersion } = privateZone(fleet);
  const [network] = subnetOf(fleet, "").split("/subnets/");
  return {
    label: "link of the private zone",
    path: `${path}/virtualNetworkLinks/${fleet.name}`,
    apiVersion,
    body: {
      location: "global",
      tags: tagsOf(fleet),
      properties: { virtualNetwork: { id: network }, registrationEnabled: false },
    },
  };
}

export function databaseServer(fleet: Named, password: string) {
  const [name = ""] = databaseHost(fleet).split(".");
  return global(fleet, "database server", "Microsoft.DBforPostgreSQL/flexibleServers", name, versions.postgres, {
    sku: { name: "Standard_D2ds_v5", tier: "GeneralPurpose" },
    properties: {
      createMode: "Default",
      version: "16",
      administratorLogin: databaseUser,
      administratorLoginPassword: password,
      storage: { storageSizeGB: 64, autoGrow: "Enabled" },
      backup: { backupRetentionDays: 14, geoRedundantBackup: "Disabled" },
      highAvailability: { mode: "Disabled" },
      network: {
        delegatedSubnetResourceId: subnetOf(fleet, "database"),
        privateDnsZoneArmResourceId: privateZone(fleet).path,
      },
    },
  });
}

export function database(fleet: Named): ArmResource {
  return part(databaseServer(fleet, ""), "database", "databases/opensandbox", {
    properties: { charset: "UTF8", collation: "en_US.utf8" },
  });
}

/** The rights of the identity: it reads secrets, and reads and writes snapshots. */
export function assignments(fleet: Named, facts: FleetFacts): readonly ArmResource[] {
  return [
    assignment("right to read secrets", vault(fleet, facts, false), roles.vaultReader, fleet, facts),
    assignment("right to store snapshots", storageAccount(fleet), roles.blobContributor, fleet, facts),
  ];
}

/** The server changes the number of workers. */
export function scalingRight(fleet: AzureFleet, facts: FleetFacts): ArmResource {
  return assignment("right to scale", scaleSet(fleet, "", ""), roles.machineContributor, fleet, facts);
}

export function zone(fleet: Named, domain: string) {
  return {
    ...global(fleet, "zone", "Microsoft.Network/dnsZones", domain, versions.dns, {}),
    body: { location: "global", tags: tagsOf(fleet) },
  };
}

/** The domain itself, and every name in it. */
export function records(fleet: Named, domain: string): readonly ArmResource[] {
  const properties = { TTL: 300, targetResource: { id: publicAddress(fleet).path } };
  return ["@", "*"].map((name) => part(zone(fleet, domain), `record ${name}`, `A/${name}`, { properties }));
}

export function serverInterface(fleet: AzureFleet) {
  const { body, ...rest } = networkInterface({ ...fleet, userData: "" });
  const [primary] = body.properties.ipConfigurations;
  const address = { privateIPAllocationMethod: "Static", privateIPAddress: serverAddress };
  const ipConfigurations = [{ name: "primary", properties: { ...primary?.properties, ...address } }];
  return { ...rest, body: { ...body, properties: { ipConfigurations } } };
}

/** The image from which every host of the fleet starts, one for each version of the program. */
export function image(fleet: Named, builder: string) {
  const name = `image-${version.replaceAll(".", "-")}`;
  return inGroup(fleet, "image", "Microsoft.Compute/images", name, versions.compute, {
    properties: { hyperVGeneration: "V2", sourceVirtualMachine: { id: builder } },
  });
}

/** @param boot the command line of the first boot */
export function serverMachine(fleet: AzureFleet, size: string, boot: string) {
  const { body, ...rest } = virtualMachine({ ...fleet, userData: userDataOf(boot) }, size);
  const { dataDisks: _, ...storage } = body.properties.storageProfile;
  return {
    ...rest,
    label: "server",
    body: {
      ...body,
      tags: { ...body.tags, [roleTag]: "server" },
      identity: { type: "UserAssigned", userAssignedIdentities: { [identity(fleet).path]: {} } },
      properties: {
        ...body.properties,
        storageProfile: { ...storage, imageReference: { id: image(fleet, "").path } },
      },
    },
  };
}

/** The tag of a host of a fleet. */
export const roleTag = "opensandbox-role";

export function scaleSet(fleet: AzureFleet, size: string, boot: string) {
  const { subscription: _, user, sshKey, osDiskGib, dataDiskGib } = fleet;
  return inGroup(fleet, "workers", "Microsoft.Compute/virtualMachineScaleSets", "workers", versions.compute, {
    sku: { name: size, tier: "Standard", capacity: fleet.workers.min },
    identity: { type: "UserAssigned", userAssignedIdentities: { [identity(fleet).path]: {} } },
    properties: {
      orchestrationMode: "Uniform",
      // A worker that Azure removed again would have joined the fleet.
      overprovision: false,
      upgradePolicy: { mode: "Manual" },
      virtualMachineProfile: {
        securityProfile: { securityType: "Standard" },
        storageProfile: {
          imageReference: { id: image(fleet, "").path },
          osDisk: {
            createOption: "FromImage",
            diskSizeGB: osDiskGib,
            managedDisk: { storageAccountType: "Premium_LRS" },
          },
          dataDisks: [
            {
              lun: 0,
              createOption: "Empty",
              diskSizeGB: dataDiskGib,
              managedDisk: { storageAccountType: "Premium_LRS" },
            },
          ],
        },
        osProfile: {
          computerNamePrefix: `${fleet.name.slice(0, 40)}-`,
          adminUsername: user,
          customData: Buffer.from(userDataOf(boot)).toString("base64"),
          linuxConfiguration: {
            disablePasswordAuthentication: true,
            ssh: { publicKeys: [{ path: `/home/${user}/.ssh/authorized_keys`, keyData: sshKey }] },
          },
        },
        networkProfile: {
          networkInterfaceConfigurations: [
            {
              name: "primary",
              properties: {
                primary: true,
                networkSecurityGroup: { id: workersGroup(fleet).path },
                ipConfigurations: [{ name: "primary", properties: { subnet: { id: subnetOf(fleet, "workers") } } }],
              },
            },
          ],
        },
        // The time between a removal's announcement and the removal: hibernating and storing a full host takes no longer.
        scheduledEventsProfile: { terminateNotificationProfile: { enable: true, notBeforeTimeout: "PT15M" } },
      },
    },
  });
}

/** cloud-init's user data of a host whose first boot runs that command line. */
export function userDataOf(boot: string): string {
  return `#cloud-config\nruncmd:\n  - ${JSON.stringify(["sh", "-c", boot])}\n`;
}

function assignment(
  label: string,
  scope: Pick<ArmResource, "path">,
  role: string,
  { subscription }: Named,
  { principalId }: FleetFacts,
): ArmResource {
  return {
    label,
    // The same for every run, so that a second one finds it.
    path: `${scope.path}/providers/Microsoft.Authorization/roleAssignments/${uuidOf(`${scope.path} ${role}`)}`,
    apiVersion: versions.authorization,
    isPart: true,
    body: {
      properties: {
        roleDefinitionId: `/subscriptions/${subscription}/providers/Microsoft.Authorization/roleDefinitions/${role}`,
        principalId,
        // Azure need not look up an identity that was made a second ago.
        principalType: "ServicePrincipal",
      },
    },
  };
}

function part(owner: Pick<ArmResource, "path" | "apiVersion">, label: string, path: string, body: object): ArmResource {
  return { label, path: `${owner.path}/${path}`, apiVersion: owner.apiVersion, body, isPart: true };
}

function global<Body extends object>(
  fleet: Named,
  label: string,
  type: string,
  name: string,
  apiVersion: string,
  body: Body,
) {
  const path = `${groupPath(fleet)}/providers/${type}/${name}`;
  return { label, path, apiVersion, body: { location: fleet.location, tags: tagsOf(fleet), ...body } };
}

function tagsOf({ name }: Named): Readonly<Record<string, string>> {
  return { [tagName]: name };
}

function globalName(fleet: Named, length: number): string {
  const hash = createHash("sha256")
    .update(`${dnsLabel(fleet)} ${fleet.subscription} ${fleet.location}`)
    .digest("hex");
  return `osb${fleet.name.replaceAll("-", "").slice(0, length - 13)}${hash.slice(0, 10)}`;
}

function uuidOf(text: string): string {
  const hash = createHash("sha256").update(text).digest("hex");
  return [
    hash.slice(0, 8),
    hash.slice(8, 12),
    `4${hash.slice(13, 16)}`,
    `8${hash.slice(17, 20)}`,
    hash.slice(20, 32),
  ].join("-");
}
