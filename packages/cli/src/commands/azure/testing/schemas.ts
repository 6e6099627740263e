import { z } from "zod";

// Values of request bodies that the fake Resource Manager accepts, as the reference of Azure's REST interface states them
// (https://learn.microsoft.com/rest/api/azure). The published models, which it also checks, leave most of them open.

const id = z.strictObject({ id: z.string().startsWith("/subscriptions/") });
const common = { location: z.string().min(1), tags: z.record(z.string(), z.string()) };
const everywhere = { ...common, location: z.literal("global") };

/** A managed identity made by Azure with the machine, or ones of the user by their ids. */
const identity = z.union([
  z.strictObject({ type: z.enum(["SystemAssigned", "None"]) }),
  z.strictObject({
    type: z.enum(["UserAssigned", "SystemAssigned, UserAssigned"]),
    userAssignedIdentities: z.record(z.string().startsWith("/subscriptions/"), z.strictObject({})),
  }),
]);

const imageReference = z.union([
  z.strictObject({ publisher: z.string(), offer: z.string(), sku: z.string(), version: z.string() }),
  id,
]);

const securityProfile = z.strictObject({ securityType: z.enum(["Standard", "TrustedLaunch", "ConfidentialVM"]) });

const osDisk = {
  createOption: z.enum(["FromImage", "Attach", "Empty"]),
  diskSizeGB: z.int().max(4095),
  managedDisk: z.strictObject({ storageAccountType: z.string() }),
};

const adminUsername = z.string().refine((name) => !["root", "admin", "administrator", "user", "test"].includes(name));
const scaleSetSku = z.strictObject({
  name: z.string().startsWith("Standard_"),
  tier: z.enum(["Standard", "Basic"]),
  capacity: z.int().min(0).max(1000),
});
/** 64 KiB before the encoding. */
const customData = z.base64().max(87_380);
const linuxConfiguration = z.strictObject({
  disablePasswordAuthentication: z.boolean(),
  ssh: z.strictObject({ publicKeys: z.array(z.strictObject({ path: z.string(), keyData: z.string() })) }),
});
/** A period of ISO 8601 from 5 to 15 minutes. */
const notBeforeTimeout = z.string().regex(/^PT([5-9]|1[0-5])M$/);

const securityRule = z.strictObject({
  name: z.string(),
  properties: z.strictObject({
    priority: z.int().min(100).max(4096),
    direction: z.enum(["Inbound", "Outbound"]),
    access: z.enum(["Allow", "Deny"]),
    protocol: z.enum(["*", "Tcp", "Udp", "Icmp", "Esp", "Ah"]),
    sourceAddressPrefix: z.string(),
    sourcePortRange: z.string(),
    destinationAddressPrefix: z.string(),
    destinationPortRange: z.string(),
  }),
});

export const schemas: Readonly<Record<string, z.ZodType>> = {
  "microsoft.resources/resourcegroups": z.strictObject(common),
  "microsoft.network/networksecuritygroups": z.strictObject({
    ...common,
    properties: z.strictObject({ securityRules: z.array(securityRule) }),
  }),
  "microsoft.network/virtualnetworks": z.strictObject({
    ...common,
    properties: z.strictObject({
      addressSpace: z.strictObject({ addressPrefixes: z.array(z.cidrv4()).min(1) }),
      subnets: z.array(
        z.strictObject({
          name: z.string(),
          properties: z.strictObject({
            addressPrefix: z.cidrv4(),
            networkSecurityGroup: id.optional(),
            natGateway: id.optional(),
            defaultOutboundAccess: z.boolean().optional(),
            serviceEndpoints: z.array(z.strictObject({ service: z.string() })).optional(),
            delegations: z
              .array(z.strictObject({ name: z.string(), properties: z.strictObject({ serviceName: z.string() }) }))
              .optional(),
          }),
        }),
      ),
    }),
  }),
  "microsoft.network/publicipaddresses": z.strictObject({
    ...common,
    sku: z.strictObject({ name: z.enum(["Basic", "Standard"]) }),
    properties: z.strictObject({
      publicIPAllocationMethod: z.enum(["Static", "Dynamic"]),
      publicIPAddressVersion: z.enum(["IPv4", "IPv6"]),
      dnsSettings: z.strictObject({ domainNameLabel: z.string().regex(/^[a-z][a-z0-9-]{1,61}[a-z0-9]$/) }).optional(),
    }),
  }),
  "microsoft.network/networkinterfaces": z.strictObject({
    ...common,
    properties: z.strictObject({
      ipConfigurations: z
        .array(
          z.strictObject({
            name: z.string(),
            properties: z.strictObject({
              subnet: id,
              publicIPAddress: id,
              privateIPAllocationMethod: z.enum(["Dynamic", "Static"]).optional(),
              privateIPAddress: z.ipv4().optional(),
            }),
          }),
        )
        .min(1),
    }),
  }),
  "microsoft.compute/disks": z.strictObject({
    ...common,
    sku: z.strictObject({
      name: z.enum(["Premium_LRS", "Standard_LRS", "StandardSSD_LRS", "UltraSSD_LRS", "PremiumV2_LRS"]),
    }),
    properties: z.strictObject({
      creationData: z.strictObject({ createOption: z.enum(["Empty", "Copy", "FromImage", "Import", "Upload"]) }),
      diskSizeGB: z.int().min(1).max(32_767),
    }),
  }),
  "microsoft.compute/virtualmachines": z.strictObject({
    ...common,
    identity,
    properties: z.strictObject({
      hardwareProfile: z.strictObject({ vmSize: z.string().startsWith("Standard_") }),
      securityProfile,
      storageProfile: z.strictObject({
        imageReference,
        osDisk: z.strictObject({ ...osDisk, deleteOption: z.enum(["Delete", "Detach"]) }),
        dataDisks: z
          .array(
            z.strictObject({
              lun: z.int().min(0),
              createOption: z.enum(["Attach", "Empty", "FromImage"]),
              deleteOption: z.enum(["Delete", "Detach"]),
              managedDisk: id,
            }),
          )
          .optional(),
      }),
      osProfile: z.strictObject({
        computerName: z.string().regex(/^[a-zA-Z0-9][a-zA-Z0-9-]{0,62}$/),
        adminUsername,
        customData,
        linuxConfiguration,
      }),
      networkProfile: z.strictObject({
        networkInterfaces: z.array(
          z.strictObject({ id: id.shape.id, properties: z.strictObject({ primary: z.boolean() }) }),
        ),
      }),
    }),
  }),
  "microsoft.compute/images": z.strictObject({
    ...common,
    properties: z.strictObject({ hyperVGeneration: z.enum(["V1", "V2"]), sourceVirtualMachine: id }),
  }),
  "microsoft.compute/virtualmachinescalesets": z.strictObject({
    ...common,
    sku: scaleSetSku,
    identity,
    properties: z.strictObject({
      orchestrationMode: z.enum(["Uniform", "Flexible"]),
      overprovision: z.boolean(),
      upgradePolicy: z.strictObject({ mode: z.enum(["Automatic", "Manual", "Rolling"]) }),
      virtualMachineProfile: z.strictObject({
        securityProfile,
        storageProfile: z.strictObject({
          imageReference,
          osDisk: z.strictObject(osDisk),
          dataDisks: z.array(z.strictObject({ ...osDisk, lun: z.int().min(0), diskSizeGB: z.int().max(32_767) })),
        }),
        osProfile: z.strictObject({
          computerNamePrefix: z.string().regex(/^[a-zA-Z0-9][a-zA-Z0-9-]{0,57}$/),
          adminUsername,
          customData,
          linuxConfiguration,
        }),
        networkProfile: z.strictObject({
          networkInterfaceConfigurations: z.array(
            z.strictObject({
              name: z.string(),
              properties: z.strictObject({
                primary: z.boolean(),
                networkSecurityGroup: id,
                // No public address: workers are in a private subnet.
                ipConfigurations: z.array(
                  z.strictObject({ name: z.string(), properties: z.strictObject({ subnet: id }) }),
                ),
              }),
            }),
          ),
        }),
        scheduledEventsProfile: z.strictObject({
          terminateNotificationProfile: z.strictObject({ enable: z.boolean(), notBeforeTimeout }),
        }),
      }),
    }),
  }),
  "microsoft.network/natgateways": z.strictObject({
    ...common,
    sku: z.strictObject({ name: z.enum(["Standard"]) }),
    properties: z.strictObject({ idleTimeoutInMinutes: z.int().min(4).max(120), publicIpAddresses: z.array(id) }),
  }),
  "microsoft.managedidentity/userassignedidentities": z.strictObject(common),
  "microsoft.storage/storageaccounts": z.strictObject({
    ...common,
    sku: z.strictObject({ name: z.enum(["Standard_LRS", "Standard_ZRS", "Standard_GRS", "Premium_LRS"]) }),
    kind: z.enum(["StorageV2", "BlobStorage", "BlockBlobStorage", "FileStorage", "Storage"]),
    properties: z.strictObject({
      accessTier: z.enum(["Hot", "Cool", "Cold", "Premium"]),
      allowBlobPublicAccess: z.boolean(),
      allowSharedKeyAccess: z.boolean(),
      minimumTlsVersion: z.enum(["TLS1_0", "TLS1_1", "TLS1_2", "TLS1_3"]),
      supportsHttpsTrafficOnly: z.boolean(),
      networkAcls: z.strictObject({
        defaultAction: z.enum(["Allow", "Deny"]),
        bypass: z.string(),
        virtualNetworkRules: z.array(z.strictObject({ id: id.shape.id, action: z.enum(["Allow"]) })),
      }),
    }),
  }),
  "microsoft.storage/storageaccounts/blobservices/containers": z.strictObject({
    properties: z.strictObject({ publicAccess: z.enum(["None", "Blob", "Container"]) }),
  }),
  "microsoft.storage/storageaccounts/managementpolicies": z.strictObject({
    properties: z.strictObject({
      policy: z.strictObject({
        rules: z
          .array(
            z.strictObject({
              name: z.string().regex(/^[a-zA-Z0-9]+$/),
              enabled: z.boolean(),
              type: z.literal("Lifecycle"),
              definition: z.strictObject({
                filters: z.strictObject({
                  blobTypes: z.array(z.enum(["blockBlob", "appendBlob"])),
                  prefixMatch: z.array(z.string()).max(10),
                }),
                actions: z.strictObject({
                  baseBlob: z.strictObject({
                    tierToCool: z.strictObject({ daysAfterModificationGreaterThan: z.int().min(0) }),
                  }),
                }),
              }),
            }),
          )
          .min(1),
      }),
    }),
  }),
  "microsoft.keyvault/vaults": z.strictObject({
    ...common,
    properties: z.strictObject({
      tenantId: z.guid(),
      sku: z.strictObject({ family: z.literal("A"), name: z.enum(["standard", "premium"]) }),
      accessPolicies: z.array(z.never()),
      enableRbacAuthorization: z.boolean(),
      enableSoftDelete: z.literal(true),
      softDeleteRetentionInDays: z.int().min(7).max(90),
      createMode: z.enum(["default", "recover"]).optional(),
    }),
  }),
  "microsoft.keyvault/vaults/secrets": z.strictObject({
    properties: z.strictObject({ value: z.string().min(1).max(25_000) }),
  }),
  "microsoft.network/privatednszones": z.strictObject(everywhere),
  "microsoft.network/privatednszones/virtualnetworklinks": z.strictObject({
    ...everywhere,
    properties: z.strictObject({ virtualNetwork: id, registrationEnabled: z.boolean() }),
  }),
  "microsoft.network/dnszones": z.strictObject(everywhere),
  "microsoft.network/dnszones/a": z.strictObject({
    properties: z.strictObject({ TTL: z.int().min(1), targetResource: id }),
  }),
  "microsoft.dbforpostgresql/flexibleservers": z.strictObject({
    ...common,
    sku: z.strictObject({ name: z.string(), tier: z.enum(["Burstable", "GeneralPurpose", "MemoryOptimized"]) }),
    properties: z.strictObject({
      createMode: z.enum(["Default", "Create", "Update", "PointInTimeRestore", "Replica"]),
      version: z.enum(["13", "14", "15", "16", "17"]),
      administratorLogin: z
        .string()
        .refine((name) => !/^(azure_superuser|azure_pg_admin|admin|administrator|root|guest|public|pg_.*)$/.test(name)),
      administratorLoginPassword: z.string().min(8).max(128),
      storage: z.strictObject({
        storageSizeGB: z.literal([32, 64, 128, 256, 512, 1024]),
        autoGrow: z.enum(["Enabled", "Disabled"]),
      }),
      backup: z.strictObject({
        backupRetentionDays: z.int().min(7).max(35),
        geoRedundantBackup: z.enum(["Enabled", "Disabled"]),
      }),
      highAvailability: z.strictObject({ mode: z.enum(["Disabled", "ZoneRedundant", "SameZone"]) }),
      network: z.strictObject({ delegatedSubnetResourceId: id.shape.id, privateDnsZoneArmResourceId: id.shape.id }),
    }),
  }),
  "microsoft.dbforpostgresql/flexibleservers/databases": z.strictObject({
    properties: z.strictObject({ charset: z.string(), collation: z.string() }),
  }),
  "microsoft.authorization/roleassignments": z.strictObject({
    properties: z.strictObject({
      roleDefinitionId: z.string().regex(/\/providers\/Microsoft\.Authorization\/roleDefinitions\/[0-9a-f-]{36}$/),
      principalId: z.guid(),
      principalType: z.enum(["User", "Group", "ServicePrincipal", "ForeignGroup", "Device"]),
    }),
  }),
};

/** Names by which Azure knows resources, where it has rules of their own. */
export const names: Readonly<Record<string, RegExp>> = {
  "microsoft.storage/storageaccounts": /^[a-z0-9]{3,24}$/,
  "microsoft.keyvault/vaults": /^[a-zA-Z](?!.*--)[a-zA-Z0-9-]{1,22}[a-zA-Z0-9]$/,
  "microsoft.keyvault/vaults/secrets": /^[0-9a-zA-Z-]{1,127}$/,
  "microsoft.dbforpostgresql/flexibleservers": /^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/,
  "microsoft.network/privatednszones": /\.postgres\.database\.azure\.com$/,
  "microsoft.authorization/roleassignments": /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
};
