import { z } from "zod";

// The request bodies that the fake Resource Manager accepts: required properties and value sets as the reference of
// Azure's REST interface states them (https://learn.microsoft.com/rest/api/azure). An unknown property is refused, as
// Azure does with most of them.

const id = z.strictObject({ id: z.string().startsWith("/subscriptions/") });
const common = { location: z.string().min(1), tags: z.record(z.string(), z.string()) };

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
          properties: z.strictObject({ addressPrefix: z.cidrv4(), networkSecurityGroup: id }),
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
      dnsSettings: z.strictObject({ domainNameLabel: z.string().regex(/^[a-z][a-z0-9-]{1,61}[a-z0-9]$/) }),
    }),
  }),
  "microsoft.network/networkinterfaces": z.strictObject({
    ...common,
    properties: z.strictObject({
      ipConfigurations: z
        .array(z.strictObject({ name: z.string(), properties: z.strictObject({ subnet: id, publicIPAddress: id }) }))
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
    identity: z.strictObject({ type: z.enum(["SystemAssigned", "UserAssigned", "None"]) }),
    properties: z.strictObject({
      hardwareProfile: z.strictObject({ vmSize: z.string().startsWith("Standard_") }),
      securityProfile: z.strictObject({ securityType: z.enum(["Standard", "TrustedLaunch", "ConfidentialVM"]) }),
      storageProfile: z.strictObject({
        imageReference: z.strictObject({
          publisher: z.string(),
          offer: z.string(),
          sku: z.string(),
          version: z.string(),
        }),
        osDisk: z.strictObject({
          createOption: z.enum(["FromImage", "Attach", "Empty"]),
          deleteOption: z.enum(["Delete", "Detach"]),
          diskSizeGB: z.int().max(4095),
          managedDisk: z.strictObject({ storageAccountType: z.string() }),
        }),
        dataDisks: z.array(
          z.strictObject({
            lun: z.int().min(0),
            createOption: z.enum(["Attach", "Empty", "FromImage"]),
            deleteOption: z.enum(["Delete", "Detach"]),
            managedDisk: id,
          }),
        ),
      }),
      osProfile: z.strictObject({
        computerName: z.string().regex(/^[a-zA-Z0-9][a-zA-Z0-9-]{0,62}$/),
        adminUsername: z.string().refine((name) => !["root", "admin", "administrator", "user", "test"].includes(name)),
        // 64 KiB before the encoding.
        customData: z.base64().max(87_380),
        linuxConfiguration: z.strictObject({
          disablePasswordAuthentication: z.boolean(),
          ssh: z.strictObject({ publicKeys: z.array(z.strictObject({ path: z.string(), keyData: z.string() })) }),
        }),
      }),
      networkProfile: z.strictObject({
        networkInterfaces: z.array(
          z.strictObject({ id: id.shape.id, properties: z.strictObject({ primary: z.boolean() }) }),
        ),
      }),
    }),
  }),
};
