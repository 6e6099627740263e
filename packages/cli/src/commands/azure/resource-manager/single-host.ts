import type { ArmCall } from "./arm-client.ts";

/** A host on Azure: one virtual machine with its disk and network, in a resource group of its own. */
export interface SingleHost {
  readonly subscription: string;
  /** The resource group, and the prefix of every name in it. */
  readonly name: string;
  readonly location: string;
  readonly user: string;
  /** The public key of the user, as in authorized_keys. */
  readonly sshKey: string;
  /** Address or range in CIDR notation from which ssh is allowed. */
  readonly sshFrom: string;
  readonly dataDiskGib: number;
  readonly osDiskGib: number;
  /** cloud-init's user data. */
  readonly userData: string;
}

/** A resource of the plan. Its body is a PUT request's. */
export interface ArmResource<Body extends object = object> {
  /** A name for people, such as `network`. */
  readonly label: string;
  readonly path: string;
  readonly apiVersion: string;
  readonly body: Body;
  /** A part of another resource: it has no tags, and exists as a whole or not at all. */
  readonly isPart?: true;
}

/** The tag of this program's resources. Its value is the host's name; only resources with the tag are deleted. */
export const tagName = "opensandbox";

export const versions = {
  resources: "2021-04-01",
  subscriptions: "2022-12-01",
  network: "2024-05-01",
  compute: "2024-07-01",
  disks: "2024-03-02",
  skus: "2021-07-01",
  identity: "2023-01-31",
  authorization: "2022-04-01",
  storage: "2023-05-01",
  vault: "2023-07-01",
  postgres: "2024-08-01",
  dns: "2018-05-01",
  privateDns: "2020-06-01",
} as const;

/**
 * Sizes with nested virtualization, in the order in which they are tried. Each family is tried before a smaller size.
 * https://learn.microsoft.com/azure/virtual-machines/sizes/overview names the families.
 */
export const defaultSizes: readonly string[] = ["48", "32", "16", "8", "4"].flatMap((vcpus) =>
  ["as_v6", "s_v6", "as_v5", "s_v5"].map((family) => `Standard_D${vcpus}${family}`),
);

export function resourceGroup({
  subscription,
  name,
  location,
}: Pick<SingleHost, "subscription" | "name" | "location">) {
  return {
    label: "resource group",
    path: groupPath({ subscription, name }),
    apiVersion: versions.resources,
    body: { location, tags: { [tagName]: name } },
  };
}

/** The resources that the virtual machine uses, in the order of creation. */
export function surroundings(host: SingleHost): readonly ArmResource[] {
  return [
    resourceGroup(host),
    securityGroup(host),
    network(host),
    publicAddress(host),
    networkInterface(host),
    dataDisk(host),
  ];
}

export function securityGroup(host: SingleHost) {
  const rule = (name: string, priority: number, port: string, from: string) => ({
    name,
    properties: {
      priority,
      direction: "Inbound",
      access: "Allow",
      protocol: "Tcp",
      sourceAddressPrefix: from,
      sourcePortRange: "*",
      destinationAddressPrefix: "*",
      destinationPortRange: port,
    },
  });
  return inGroup(host, "security group", "Microsoft.Network/networkSecurityGroups", "nsg", versions.network, {
    properties: { securityRules: [rule("ssh", 1000, "22", host.sshFrom), rule("https", 1010, "443", "Internet")] },
  });
}

export function network(host: SingleHost) {
  return inGroup(host, "network", "Microsoft.Network/virtualNetworks", "vnet", versions.network, {
    properties: {
      addressSpace: { addressPrefixes: ["10.100.0.0/16"] },
      subnets: [
        {
          name: "hosts",
          properties: { addressPrefix: "10.100.1.0/24", networkSecurityGroup: { id: securityGroup(host).path } },
        },
      ],
    },
  });
}

export function publicAddress(host: Pick<SingleHost, "subscription" | "name" | "location">) {
  return inGroup(host, "public address", "Microsoft.Network/publicIPAddresses", "ip", versions.network, {
    sku: { name: "Standard" },
    properties: {
      publicIPAllocationMethod: "Static",
      publicIPAddressVersion: "IPv4",
      dnsSettings: { domainNameLabel: dnsLabel(host) },
    },
  });
}

export function networkInterface(host: SingleHost) {
  return inGroup(host, "network interface", "Microsoft.Network/networkInterfaces", "nic", versions.network, {
    properties: {
      ipConfigurations: [
        {
          name: "primary",
          properties: {
            subnet: { id: `${network(host).path}/subnets/hosts` },
            publicIPAddress: { id: publicAddress(host).path },
          },
        },
      ],
    },
  });
}

export function dataDisk(host: SingleHost) {
  return inGroup(host, "data disk", "Microsoft.Compute/disks", "data", versions.disks, {
    sku: { name: "Premium_LRS" },
    properties: { creationData: { createOption: "Empty" }, diskSizeGB: host.dataDiskGib },
  });
}

export function virtualMachine(host: SingleHost, size: string) {
  return inGroup(host, "virtual machine", "Microsoft.Compute/virtualMachines", "vm", versions.compute, {
    identity: { type: "SystemAssigned" },
    properties: {
      hardwareProfile: { vmSize: size },
      // Trusted Launch, the default of Azure, has no nested virtualization.
      securityProfile: { securityType: "Standard" },
      storageProfile: {
        imageReference: { publisher: "Canonical", offer: "ubuntu-24_04-lts", sku: "server", version: "latest" },
        osDisk: {
          createOption: "FromImage",
          // Deleted with the machine: Azure gives it no tags.
          deleteOption: "Delete",
          diskSizeGB: host.osDiskGib,
          managedDisk: { storageAccountType: "Premium_LRS" },
        },
        dataDisks: [
          { lun: 0, createOption: "Attach", deleteOption: "Detach", managedDisk: { id: dataDisk(host).path } },
        ],
      },
      osProfile: {
        computerName: host.name,
        adminUsername: host.user,
        customData: Buffer.from(host.userData).toString("base64"),
        linuxConfiguration: {
          disablePasswordAuthentication: true,
          ssh: { publicKeys: [{ path: `/home/${host.user}/.ssh/authorized_keys`, keyData: host.sshKey }] },
        },
      },
      networkProfile: { networkInterfaces: [{ id: networkInterface(host).path, properties: { primary: true } }] },
    },
  });
}

/** Sizes of the location with their restrictions. */
export function sizesOf({ subscription, location }: Pick<SingleHost, "subscription" | "location">): ArmCall {
  const filter = encodeURIComponent(`location eq '${location}'`);
  return {
    method: "GET",
    path: `/subscriptions/${subscription}/providers/Microsoft.Compute/skus?$filter=${filter}`,
    apiVersion: versions.skus,
  };
}

/** Quotas of the location and their use. */
export function usagesOf({ subscription, location }: Pick<SingleHost, "subscription" | "location">): ArmCall {
  return {
    method: "GET",
    path: `/subscriptions/${subscription}/providers/Microsoft.Compute/locations/${location}/usages`,
    apiVersion: versions.compute,
  };
}

export function resourcesOf(host: Pick<SingleHost, "subscription" | "name">): ArmCall {
  return { method: "GET", path: `${groupPath(host)}/resources`, apiVersion: versions.resources };
}

/** Whether the machine runs: its instance view has the power state. */
export function instanceView(host: SingleHost): ArmCall {
  return { method: "GET", path: `${virtualMachine(host, "").path}/instanceView`, apiVersion: versions.compute };
}

export function getOf({ path, apiVersion }: Pick<ArmResource, "path" | "apiVersion">): ArmCall {
  return { method: "GET", path, apiVersion };
}

export function putOf({ path, apiVersion, body }: ArmResource): ArmCall {
  return { method: "PUT", path, apiVersion, body };
}

/** Types of resources in the order of their deletion: a resource goes before those that it uses. */
export const deletionOrder: readonly (readonly [type: string, apiVersion: string])[] = [
  ["Microsoft.Compute/virtualMachines", versions.compute],
  ["Microsoft.Compute/virtualMachineScaleSets", versions.compute],
  ["Microsoft.Compute/images", versions.compute],
  ["Microsoft.Network/networkInterfaces", versions.network],
  ["Microsoft.DBforPostgreSQL/flexibleServers", versions.postgres],
  ["Microsoft.Network/privateDnsZones/virtualNetworkLinks", versions.privateDns],
  ["Microsoft.Network/privateDnsZones", versions.privateDns],
  ["Microsoft.Network/dnsZones", versions.dns],
  ["Microsoft.KeyVault/vaults", versions.vault],
  ["Microsoft.Storage/storageAccounts", versions.storage],
  ["Microsoft.Network/virtualNetworks", versions.network],
  ["Microsoft.Network/natGateways", versions.network],
  ["Microsoft.Network/publicIPAddresses", versions.network],
  ["Microsoft.Network/networkSecurityGroups", versions.network],
  ["Microsoft.ManagedIdentity/userAssignedIdentities", versions.identity],
  ["Microsoft.Compute/disks", versions.disks],
];

export function groupPath({ subscription, name }: Pick<SingleHost, "subscription" | "name">): string {
  return `/subscriptions/${subscription}/resourceGroups/${name}`;
}

/** Unique in the location, and the same for every run. */
export function dnsLabel({ name, subscription }: Pick<SingleHost, "name" | "subscription">): string {
  return `${name}-${subscription.replaceAll("-", "").slice(0, 8)}`.toLowerCase();
}

export function inGroup<Body extends object>(
  host: Pick<SingleHost, "subscription" | "name" | "location">,
  label: string,
  type: string,
  suffix: string,
  apiVersion: string,
  body: Body,
) {
  return {
    label,
    path: `${groupPath(host)}/providers/${type}/${host.name}-${suffix}`,
    apiVersion,
    body: { location: host.location, tags: { [tagName]: host.name }, ...body },
  };
}
